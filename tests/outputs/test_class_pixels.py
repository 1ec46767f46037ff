"""Counting the pixels of each class in a generated folder."""

from pathlib import Path

import numpy as np
import pytest

from dgkit.data.generated import open_generated
from dgkit.outputs.class_pixels import count_classes
from tests.generated import make_job


def test_pixels_of_classes_are_those_of_the_labels(generated: Path) -> None:
    pixels = count_classes(open_generated(generated))
    labels = [make_job(index).label for index in range(7)]
    expected = np.array([np.bincount(label.ravel(), minlength=256)[:19] for label in labels])
    assert np.array_equal(pixels.classes, expected)
    assert pixels.totals == expected.sum(0).tolist()
    assert pixels.scenes == (expected > 0).sum(0).tolist()
    ignored = np.mean([label == 255 for label in labels])
    assert ignored > 0 and pixels.ignored_share == pytest.approx(ignored)
