"""Boundary IoU against the definition of its authors, written out class by class, and on a worked example."""

import cv2
import numpy as np
import pytest

from dgkit.evaluation.benchmark.boundary_band import band_width, boundary_counts, boundary_iou
from dgkit.labels import IGNORE


def eroded_band(mask: np.ndarray, distance: int) -> np.ndarray:
    """The mask minus its erosion by 3 x 3, repeated; outside of the image is not the mask."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)
    return mask & ~eroded[1:-1, 1:-1].astype(bool)


@pytest.mark.parity
def test_equal_to_the_definition_for_each_class() -> None:
    random = np.random.default_rng(0)
    low = random.integers(0, 5, (6, 9)).astype(np.uint8)
    label = cv2.resize(low, (180, 120), interpolation=cv2.INTER_NEAREST)
    predicted = np.roll(label, (3, -4), (0, 1))
    predicted[random.random(label.shape) < 0.02] = 3
    distance = band_width(*label.shape)
    assert distance == round(0.02 * np.hypot(120, 180)) == 4
    found = boundary_iou(boundary_counts(label, predicted, 19))
    for number in range(5):
        truth, guess = (eroded_band(one == number, distance) for one in (label, predicted))
        assert found[number] == (truth & guess).sum() / (truth | guess).sum()
    assert np.isnan(found[5:]).all()


def test_a_worked_example() -> None:
    label = np.zeros((100, 100), np.uint8)  # diagonal 141.4: a band of 3 pixels
    label[20:60, 20:60] = 1
    predicted = np.zeros_like(label)
    predicted[20:60, 21:61] = 1  # one pixel to the right
    counts = boundary_counts(label, predicted, 2)
    assert counts[:2, 1].tolist() == [40**2 - 34**2] * 2  # rings 3 pixels wide
    # Both: above and below 3 rows of 39 columns, and on each side 34 rows of the 2 columns that the rings share.
    both = 2 * 3 * 39 + 2 * 34 * 2
    assert counts[2, 1] == both
    assert boundary_iou(counts)[1] == both / (2 * (40**2 - 34**2) - both)
    assert boundary_iou(counts)[1] < 40 * 39 / (40 * 41)  # the mask IoU hardly notices


def test_ignored_pixels_do_not_count() -> None:
    label = np.full((40, 40), IGNORE, np.uint8)
    label[:, :20] = 7
    predicted = np.full((40, 40), 7, np.uint8)  # also on ignored pixels
    assert boundary_iou(boundary_counts(label, predicted, 19))[7] == 1
    assert band_width(4, 4) == 1
