"""Scales and windows equal the constants of the published protocols."""

import numpy as np
import pytest

from dgkit.errors import UsageError
from dgkit.evaluation.benchmark.protocols import PROTOCOLS, find_protocol, fitted_size, windows


@pytest.mark.parametrize(
    ("protocol", "dataset", "size", "expected"),
    [
        ("dginstyle", "cityscapes", (1024, 2048), (512, 1024)),
        ("dginstyle", "bdd100k", (720, 1280), (512, 910)),
        ("dginstyle", "mapillary", (2448, 3264), (512, 683)),
        ("dginstyle", "mapillary", (3264, 2448), (683, 512)),
        ("dginstyle", "mapillary", (1000, 4000), (256, 1024)),
        ("dginstyle", "acdc", (1080, 1920), (540, 960)),
        ("dginstyle", "dark_zurich", (1080, 1920), (540, 960)),
        ("hrda", "cityscapes", (1024, 2048), (1024, 2048)),
        ("hrda", "bdd100k", (720, 1280), (1024, 1820)),
        ("hrda", "acdc", (1080, 1920), (1080, 1920)),
        ("half", "bdd100k", (720, 1280), (720, 1280)),
        ("whole", "acdc", (1080, 1920), (540, 960)),
    ],
)
def test_image_sizes_of_the_protocols(protocol, dataset, size, expected) -> None:
    assert fitted_size(*size, find_protocol(protocol).scale_of(dataset)) == expected


def test_windows_of_the_protocols() -> None:
    known = {name: (protocol.crop, protocol.stride) for name, protocol in PROTOCOLS.items()}
    assert known == {"dginstyle": (512, 256), "hrda": (1024, 512), "half": (512, 341), "whole": (None, 1)}
    assert windows(512, 1024, 512, 256) == [(0, 512, 0, 512), (0, 512, 256, 768), (0, 512, 512, 1024)]
    # The last window is moved inside, in both directions.
    assert windows(540, 960, 512, 256) == [
        (0, 512, 0, 512), (0, 512, 256, 768), (0, 512, 448, 960),
        (28, 540, 0, 512), (28, 540, 256, 768), (28, 540, 448, 960),
    ]  # fmt: skip
    assert windows(256, 1024, 512, 512) == [(0, 256, 0, 512), (0, 256, 512, 1024)]  # lower than a window
    assert windows(300, 400, None, 1) == [(0, 300, 0, 400)]


def test_windows_cover_every_pixel() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        height, width, crop = rng.integers(1, 90, 3).tolist()
        covered = np.zeros((height, width), int)
        for top, bottom, left, right in windows(height, width, crop, int(rng.integers(1, crop + 1))):
            assert (bottom - top, right - left) == (min(crop, height), min(crop, width))
            covered[top:bottom, left:right] += 1
        assert covered.min() > 0


def test_changed_constants_are_described() -> None:
    changed = find_protocol("dginstyle").changed((128, 64), 32)
    assert (changed.scale_of("acdc"), changed.crop, changed.stride) == ((128, 64), 32, 16)
    assert changed.name == "dginstyle, changed"
    assert changed.description.endswith("; changed to scale (128, 64), crop 32, stride 16")
    assert find_protocol("hrda").changed() is PROTOCOLS["hrda"]
    with pytest.raises(UsageError, match="stride 40 is not within 1 to 32, the size of the windows"):
        find_protocol("dginstyle").changed(None, 32, 40)
    with pytest.raises(UsageError, match="unknown protocol 'full'; known protocols: dginstyle, hrda, half, whole"):
        find_protocol("full")
