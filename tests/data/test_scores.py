"""Scores of label maps from one confusion matrix."""

import numpy as np
import pytest

from dgkit.data.scores import class_iou, confusion, mean_iou, pixel_accuracy, summary
from dgkit.labels import CLASSES, IGNORE


def maps() -> tuple[np.ndarray, np.ndarray]:
    """Eight labelled pixels: 4 road, 3 sky, 1 pole; one sky and the pole are called road."""
    label = np.array([[0, 0, 0, 0, 10, 10, 10, 5, IGNORE]], np.uint8)
    prediction = np.array([[0, 0, 0, 0, 10, 10, 0, 0, 3]], np.uint8)
    return label, prediction


def test_ignored_pixels_do_not_count() -> None:
    matrix = confusion(*maps())
    assert matrix.dtype == np.int64 and matrix.sum() == 8
    assert matrix[0, 0] == 4 and matrix[10, 0] == 1 and matrix[5, 0] == 1


def test_iou_is_hits_over_union() -> None:
    iou = class_iou(confusion(*maps()))
    assert iou[0] == 4 / 6 and iou[10] == 2 / 3 and iou[5] == 0
    assert np.isnan(iou[3])  # called once, on an ignored pixel, and labelled nowhere
    assert mean_iou(confusion(*maps())) == pytest.approx((4 / 6 + 2 / 3) / 3)
    assert mean_iou(confusion(*maps()), ("pole", "rider")) == 0
    assert pixel_accuracy(confusion(*maps())) == 6 / 8


def test_an_oracle_scores_fully() -> None:
    label = np.arange(19, dtype=np.uint8)[None]
    found = summary(confusion(label, label))
    assert found["miou"] == found["small_miou"] == found["pixel_accuracy"] == 1
    assert found["iou"] == dict.fromkeys(CLASSES, 1.0)


def test_nothing_labelled_scores_nothing() -> None:
    label = np.full((2, 2), IGNORE, np.uint8)
    found = summary(confusion(label, np.zeros((2, 2), np.uint8)))
    assert found["miou"] is None and found["pixel_accuracy"] is None
