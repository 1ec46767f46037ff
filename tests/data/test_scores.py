"""Scores from a confusion matrix."""

import numpy as np
import pytest

from dgkit.data.scores import class_iou, confusion, mean_iou, pixel_accuracy, summary
from dgkit.labels import CLASSES, IGNORE, NUM_CLASSES


def maps() -> tuple[np.ndarray, np.ndarray]:
    """Eight labelled pixels: 4 road, 3 sky, 1 pole; one sky and the pole are predicted as road."""
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
    assert np.isnan(iou[3])  # predicted once, on an ignored pixel, and labelled nowhere
    assert mean_iou(confusion(*maps())) == pytest.approx((4 / 6 + 2 / 3) / 3)
    assert mean_iou(confusion(*maps()), ("pole", "rider")) == 0
    assert pixel_accuracy(confusion(*maps())) == 6 / 8


def test_perfect_predictions_score_1() -> None:
    label = np.arange(19, dtype=np.uint8)[None]
    found = summary(confusion(label, label))
    assert found["miou"] == found["small_miou"] == found["pixel_accuracy"] == 1
    assert found["iou"] == dict.fromkeys(CLASSES, 1.0)


def test_no_labelled_pixels_give_no_scores() -> None:
    label = np.full((2, 2), IGNORE, np.uint8)
    found = summary(confusion(label, np.zeros((2, 2), np.uint8)))
    assert found["miou"] is None and found["pixel_accuracy"] is None


def test_a_class_that_is_only_predicted_scores_0_if_absent_is_zero() -> None:
    label = np.array([[0, 0, 1, 1, 255, 255]], np.uint8)
    predicted = np.array([[0, 0, 1, 2, 5, 1]], np.uint8)  # 5 is predicted on ignored pixels alone
    matrix = confusion(label, predicted)
    iou = class_iou(matrix, absent="zero")
    assert iou[:3].tolist() == [1.0, 0.5, 0.0] and np.isnan(iou[3:]).all()
    assert np.array_equal(class_iou(matrix)[:2], iou[:2]) and np.isnan(class_iou(matrix)[2:]).all()
    assert mean_iou(matrix, absent="zero") == 0.5
    assert np.isnan(mean_iou(np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64), absent="zero"))
    assert mean_iou(confusion(label, label % 255), absent="zero") == 1.0


@pytest.mark.parity
def test_equal_to_torchmetrics() -> None:
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.classification")
    rng = np.random.default_rng(3)
    kind = classification.MulticlassJaccardIndex
    whole, each = (kind(NUM_CLASSES, average=average, ignore_index=255) for average in ("macro", "none"))
    total = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    for size in ((40, 60), (33, 21), (7, 90)):
        label = rng.choice([0, 1, 2, 5, 8, 13, 18, 255], size).astype(np.uint8)
        predicted = np.where(rng.random(size) < 0.7, label % 255, rng.choice([0, 3, 8, 13], size)).astype(np.uint8)
        total += confusion(label, predicted)
        for metric in (whole, each):
            metric.update(torch.from_numpy(predicted.astype(int)), torch.from_numpy(label.astype(int)))
    assert mean_iou(total, absent="zero") == pytest.approx(float(whole.compute()), abs=1e-6)
    assert np.nan_to_num(class_iou(total, absent="zero")) == pytest.approx(each.compute().numpy(), abs=1e-6)
