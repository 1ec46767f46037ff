from __future__ import annotations

import pytest
import torch

from dgkit.diffusion.tiles import Windows, make_windows
from dgkit.errors import UsageError


@pytest.mark.parametrize(("stride", "count"), [(8, 81), (16, 25), (32, 9), (64, 4)])
def test_published_windows(stride: int, count: int) -> None:
    windows = make_windows(128, 128, tile=64, stride=stride)
    assert len(windows) == count
    assert windows.corners[0] == (0, 0) and windows.corners[-1] == (64, 64)
    assert windows.corners[1] == (0, stride)  # row by row
    assert len(make_windows(64, 64, tile=64, stride=stride)) == 1


def test_counts_of_published_windows() -> None:
    counts = make_windows(128, 128, tile=64, stride=16).counts()
    assert counts.min() == 1 and counts.max() == 16
    assert counts[0, 0] == counts[0, -1] == counts[-1, 0] == counts[-1, -1] == 1


@pytest.mark.parametrize("height", [1, 5, 8, 9, 15, 23, 90])
@pytest.mark.parametrize("width", [8, 13, 31])
@pytest.mark.parametrize("stride", [1, 3, 8])
def test_every_cell_is_covered_and_kept(height: int, width: int, stride: int) -> None:
    windows = make_windows(height, width, tile=8, stride=stride)
    assert windows.counts().min() >= 1
    assert len(set(windows.corners)) == len(windows)
    canvas = torch.arange(2 * 3 * height * width, dtype=torch.float32).reshape(2, 3, height, width)
    tiles = windows.cut(canvas)
    assert tiles.shape == (2 * len(windows), 3, min(8, height), min(8, width))
    assert torch.allclose(windows.average(tiles), canvas, rtol=1e-6)


def test_cut_keeps_the_windows_of_an_image_together() -> None:
    windows = make_windows(4, 6, tile=4, stride=2)
    canvas = torch.stack([torch.zeros(1, 4, 6), torch.ones(1, 4, 6)])
    assert windows.cut(canvas).mean(dim=(1, 2, 3)).tolist() == [0.0, 0.0, 1.0, 1.0]


def test_average_is_the_mean_in_float32() -> None:
    windows = make_windows(4, 6, tile=4, stride=2)
    tiles = torch.stack([torch.full((1, 4, 4), 1.0), torch.full((1, 4, 4), 2.0)]).half()
    mean = windows.average(tiles)
    assert mean.dtype == torch.float32
    assert mean[0, 0, 0].tolist() == [1.0, 1.0, 1.5, 1.5, 2.0, 2.0]


@pytest.mark.parametrize("stride", [0, 9])
def test_wrong_stride(stride: int) -> None:
    with pytest.raises(UsageError, match="1 to the tile of 8"):
        make_windows(16, 16, tile=8, stride=stride)


def test_smooth_weights_fall_to_the_edges_and_keep_a_constant() -> None:
    windows = make_windows(12, 20, tile=8, stride=4, smooth=True)
    weights = windows.weights()
    assert weights.max() == weights[3:5, 3:5].max() and weights.min() == weights[0, 0] > 0
    canvas = torch.randn(2, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(windows.average(windows.cut(canvas)), canvas, atol=1e-5)


def test_an_edge_counts_less_than_the_middle_of_the_neighbour() -> None:
    windows = make_windows(8, 12, tile=8, stride=4, smooth=True)
    tiles = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
    row = windows.average(tiles)[0, 0, 4]
    assert row[:4].tolist() == [0.0] * 4 and row[8:].tolist() == [1.0] * 4
    assert row[4] < 0.1 and row[7] > 0.9 and torch.all(row.diff() >= 0)


def test_cells_in_no_window_are_zero() -> None:
    for smooth in (False, True):
        windows = Windows(8, 8, 4, 4, ((0, 4),), smooth)
        assert not windows.whole
        mean = windows.average(windows.cut(torch.ones(1, 2, 8, 8)))
        assert torch.allclose(mean[:, :, :4, 4:], torch.ones(1, 2, 4, 4))
        assert mean.sum() == pytest.approx(2 * 16) and torch.isfinite(mean).all()
