"""Windows of the label maps on the page."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgkit.app.picking import MapSource, open_maps
from dgkit.data.datasets import label_arrays
from dgkit.data.labelmap import read_label
from dgkit.errors import LabelError
from dgkit.generation.generate_config import GenerateConfig
from tests.scenes import make_label


def test_windows_are_parts_of_their_map_in_the_size_of_the_model(labels: Path) -> None:
    maps = open_maps(GenerateConfig(labels=labels), (64, 64), None)
    sample = maps.dataset.samples[1]
    whole = read_label(labels / "1.png")
    first, again, other = (maps.window(sample, number) for number in (0, 0, 1))
    assert first.shape == (64, 64) and np.array_equal(first, again) and not np.array_equal(first, other)
    rows = {whole[y : y + 64, x : x + 64].tobytes() for y in range(33) for x in range(97)}
    assert {first.tobytes(), other.tobytes()} <= rows


def test_small_maps_are_enlarged(labels: Path) -> None:
    maps = open_maps(GenerateConfig(labels=labels), (256, 256), None)
    assert maps.window(maps.dataset.samples[0]).shape == (256, 256)
    assert (maps.window(maps.dataset.samples[0]) != 255).mean() > 0.8


def test_maps_that_scaling_makes_too_large_are_refused(labels: Path) -> None:
    maps = open_maps(GenerateConfig(labels=labels), (64, 64), None)
    source = MapSource(maps.dataset, maps.rules, label_height=1024)
    line = label_arrays([np.zeros((1, 60000), np.uint8)]).samples[0]
    with pytest.raises(LabelError, match=r"60000x1 pixels scaled by 1\.02e"):
        source.window(line)


def test_thumbnails_are_coloured_and_a_damaged_map_has_its_reason(tmp_path: Path) -> None:
    Image.fromarray(make_label(0)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"text")
    (_, picture), (name, reason) = open_maps(GenerateConfig(labels=tmp_path), (64, 64), None).thumbnails(0)
    assert isinstance(picture, np.ndarray) and picture.shape == (106, 176, 3)
    assert name == "b" and "not a PNG" in str(reason)
