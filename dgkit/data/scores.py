"""Scores of predicted label maps from a confusion matrix."""

from typing import Literal

import numpy as np

from dgkit.labels import CLASSES, NUM_CLASSES

# Thin or distant classes, which generators and segmenters lose first.
SMALL_CLASSES = ("pole", "traffic light", "traffic sign", "person", "rider", "motorcycle", "bicycle")

Absent = Literal["skip", "zero"]
"""What the IoU of a class that was predicted but occurs in no label is: nan ("skip") or 0 ("zero")."""


def confusion(label: np.ndarray, prediction: np.ndarray, *, void: bool = False) -> np.ndarray:
    """Return the confusion matrix, int64 [19,19]: pixels labelled as the class of the row, predicted as the column's.

    Both arguments are uint8 [H,W] train ids. Pixels that ``label`` ignores do not count; ``prediction`` must hold ids
    0..18 only. With ``void`` it may also hold 255 (none of the classes), and a 20th column counts these pixels: they
    are misses of the labelled class and false positives of none, as in mmsegmentation.
    """
    columns = NUM_CLASSES + void
    known = label < NUM_CLASSES
    predicted = np.minimum(prediction[known], NUM_CLASSES) if void else prediction[known]
    pairs = label[known].astype(np.int64) * columns + predicted
    return np.bincount(pairs, minlength=NUM_CLASSES * columns).reshape(NUM_CLASSES, columns)


def class_iou(matrix: np.ndarray, absent: Absent = "skip") -> np.ndarray:
    """Return the intersection over union of each class, float64 [19].

    A class that was neither labelled nor predicted is nan. For one that was predicted but is in no label ``absent``
    decides: "skip" gives nan as in cityscapesScripts (evalPixelLevelSemanticLabeling.py), "zero" gives 0 as in
    mmsegmentation (iou_metric.py). In both, the union counts false positives on labelled pixels. ``matrix`` may have
    the 20th column of :func:`confusion`.
    """
    hits = np.diag(matrix).astype(np.float64)
    rows = matrix.sum(1)
    union = rows + matrix.sum(0)[: len(hits)] - hits
    known = rows > 0 if absent == "skip" else union > 0
    return np.divide(hits, union, out=np.full(len(hits), np.nan), where=known)


def mean_iou(matrix: np.ndarray, names: tuple[str, ...] = CLASSES, absent: Absent = "skip") -> float:
    """Return the mean of :func:`class_iou` over the classes ``names`` that have one; nan if none has."""
    iou = class_iou(matrix, absent)[[CLASSES.index(name) for name in names]]
    return float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")


def pixel_accuracy(matrix: np.ndarray) -> float:
    """Return the share of the labelled pixels that were predicted correctly; nan if none is labelled."""
    total = matrix.sum()
    return float(np.trace(matrix) / total) if total else float("nan")


def summary(matrix: np.ndarray) -> dict[str, object]:
    """Return miou, small_miou, pixel_accuracy and iou by class name, 0..1 each; None for what was not labelled."""
    iou = class_iou(matrix)
    return {
        "miou": _known(mean_iou(matrix)),
        "small_miou": _known(mean_iou(matrix, SMALL_CLASSES)),
        "pixel_accuracy": _known(pixel_accuracy(matrix)),
        "iou": {name: _known(float(value)) for name, value in zip(CLASSES, iou, strict=True)},
    }


def _known(value: float) -> float | None:
    return round(value, 6) if np.isfinite(value) else None
