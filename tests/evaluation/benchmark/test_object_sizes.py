"""Accuracy by object size on objects of known area."""

import numpy as np
import pytest

from dgkit.evaluation.benchmark.object_sizes import LIMITS, size_accuracy, size_counts
from dgkit.labels import IGNORE


def test_the_limits_are_those_of_coco_for_its_usual_image() -> None:
    assert pytest.approx((32**2, 96**2)) == tuple(limit * 640 * 480 for limit in LIMITS)


def test_objects_are_counted_by_their_area() -> None:
    label = np.zeros((100, 100), np.uint8)  # small below 33.3 pixels, large from 300 on
    label[0:5, 0:5] = 13  # 25 pixels, with the next one by a corner 50: medium
    label[5:10, 5:10] = 13
    label[50:55, 50:55] = 13  # 25 pixels: small
    label[60:80, 60:80] = 13  # 400 pixels: large
    label[90:100, 0:10] = IGNORE
    predicted = label.copy()
    predicted[0:5, 0:5] = 14
    predicted[50, 50] = 14
    predicted[60:70, 60:80] = IGNORE  # predicted as none of the classes
    counts = size_counts(label, predicted, 19)
    assert counts[0, :, 13].tolist() == [25, 50, 400] and counts[1, :, 13].tolist() == [24, 25, 200]
    assert counts[0].sum() == 100 * 100 - 100 and counts[0, 2, 0] == 100 * 100 - 100 - 475
    accuracy = size_accuracy(counts)
    assert accuracy[:, 13].tolist() == [0.96, 0.5, 0.5] and np.isnan(accuracy[:2, 0]).all() and accuracy[2, 0] == 1


def test_nothing_labelled() -> None:
    label = np.full((8, 8), IGNORE, np.uint8)
    assert np.isnan(size_accuracy(size_counts(label, label, 19))).all()
