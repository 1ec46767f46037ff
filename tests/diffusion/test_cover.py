from __future__ import annotations

import numpy as np
import pytest

from dgkit.diffusion.cover import MIN_SHARE, cover_windows, covered

TILE = 16


def blob(height: int, width: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Return a mask that is True in boxes of (y, x, height, width)."""
    need = np.zeros((height, width), bool)
    for y, x, h, w in boxes:
        need[y : y + h, x : x + w] = True
    return need


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 56), (16, 70), (9, 33)])
def test_all_but_small_patches_are_covered(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    need = np.zeros((height, width), bool)
    for _ in range(6):
        y, x = rng.integers(0, height), rng.integers(0, width)
        need[y : y + rng.integers(1, 14), x : x + rng.integers(1, 14)] = True
    windows = cover_windows(need, TILE)
    missed = need & ~covered(windows)
    assert missed.sum() <= 4 * MIN_SHARE * windows.tile_height * windows.tile_width
    assert all(0 <= y <= height - windows.tile_height and 0 <= x <= width - windows.tile_width
               for y, x in windows.corners)  # fmt: skip
    assert len(windows) <= -(-height // TILE) * -(-width // TILE)  # never more than a grid
    assert list(windows.corners) == sorted(set(windows.corners))
    assert windows == cover_windows(need, TILE)


def test_a_full_canvas_is_the_grid() -> None:
    assert cover_windows(np.ones((32, 48), bool), TILE).corners == (
        (0, 0),
        (0, 16),
        (0, 32),
        (16, 0),
        (16, 16),
        (16, 32),
    )


def test_a_band_takes_one_row() -> None:
    """The horizon of a street, for which a grid would need two rows."""
    windows = cover_windows(blob(32, 32, (10, 0, 12, 32)), TILE)
    assert windows.corners == ((8, 0), (8, 16))  # the band in the middle of each


def test_one_object_is_in_the_middle_of_one_window() -> None:
    assert cover_windows(blob(32, 32, (14, 13, 4, 6)), TILE).corners == ((8, 8),)
    assert cover_windows(blob(32, 32, (0, 28, 4, 4)), TILE).corners == ((0, 16),)  # as far as the canvas allows


def test_two_far_objects_take_two_windows() -> None:
    windows = cover_windows(blob(64, 64, (2, 2, 6, 6), (50, 50, 6, 6)), TILE)
    assert len(windows) == 2


def test_specks_get_no_window() -> None:
    assert len(cover_windows(blob(32, 32, (0, 0, 1, 2)), TILE)) == 0
    with_object = blob(64, 64, (0, 0, 1, 2), (40, 40, 10, 10))
    windows = cover_windows(with_object, TILE)
    assert len(windows) == 1 and not covered(windows)[0, 0]


def test_nothing_to_redraw() -> None:
    windows = cover_windows(np.zeros((32, 32), bool), TILE)
    assert len(windows) == 0 and not covered(windows).any()


def test_a_canvas_smaller_than_the_tile() -> None:
    windows = cover_windows(np.ones((9, 12), bool), TILE)
    assert windows.whole and windows.corners == ((0, 0),)
