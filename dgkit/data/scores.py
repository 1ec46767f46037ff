"""Scores of predicted label maps from a confusion matrix."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from dgkit.labels import NUM_CLASSES
from dgkit.taxonomies import CITYSCAPES19, Taxonomy

SMALL_CLASSES = CITYSCAPES19.small_names

Absent = Literal["skip", "zero"]
"""What the IoU of a class that was predicted but occurs in no label is: nan ("skip") or 0 ("zero")."""


def confusion(
    label: np.ndarray, prediction: np.ndarray, *, void: bool = False, classes: int = NUM_CLASSES
) -> np.ndarray:
    """Return the confusion matrix, int64 [K,K]: pixels labelled as the class of the row, predicted as the column's.

    Both arguments are uint8 [H,W] train ids. Pixels that ``label`` ignores do not count; ``prediction`` must hold ids
    below ``classes``, K. With ``void`` it may also hold 255 (none of the classes), and one more column counts these
    pixels: they are misses of the labelled class and false positives of none, as in mmsegmentation.
    """
    columns = classes + void
    known = label < classes
    predicted = np.minimum(prediction[known], classes) if void else prediction[known]
    pairs = label[known].astype(np.int64) * columns + predicted
    return np.bincount(pairs, minlength=classes * columns).reshape(classes, columns)


def class_iou(matrix: np.ndarray, absent: Absent = "skip") -> np.ndarray:
    """Return the intersection over union of each class, float64 [K].

    A class that was neither labelled nor predicted is nan. For one that was predicted but is in no label ``absent``
    decides: "skip" gives nan as in cityscapesScripts (evalPixelLevelSemanticLabeling.py), "zero" gives 0 as in
    mmsegmentation (iou_metric.py). In both, the union counts false positives on labelled pixels. ``matrix`` may have
    the last column of :func:`confusion`.
    """
    hits = np.diag(matrix).astype(np.float64)
    rows = matrix.sum(1)
    union = rows + matrix.sum(0)[: len(hits)] - hits
    known = rows > 0 if absent == "skip" else union > 0
    return np.divide(hits, union, out=np.full(len(hits), np.nan), where=known)


def mean_iou(
    matrix: np.ndarray,
    names: Sequence[str] | None = None,
    absent: Absent = "skip",
    taxonomy: Taxonomy = CITYSCAPES19,
) -> float:
    """Return the mean of :func:`class_iou` over the classes ``names``, by default all, that have one; nan if none."""
    iou = class_iou(matrix, absent)
    if names is not None:
        iou = iou[[taxonomy.names.index(name) for name in names]]
    return float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")


def class_accuracy(matrix: np.ndarray) -> np.ndarray:
    """Return the share of the labelled pixels of each class that were predicted correctly, float64 [K]; nan if none."""
    rows = matrix.sum(1)
    return np.divide(np.diag(matrix), rows, out=np.full(len(rows), np.nan), where=rows > 0)


def pixel_accuracy(matrix: np.ndarray) -> float:
    """Return the share of the labelled pixels that were predicted correctly; nan if none is labelled."""
    total = matrix.sum()
    return float(np.trace(matrix) / total) if total else float("nan")


def summary(matrix: np.ndarray, taxonomy: Taxonomy = CITYSCAPES19) -> dict[str, object]:
    """Return miou, small_miou, pixel_accuracy and iou by class name, 0..1 each; None for what was not labelled."""
    iou = class_iou(matrix)
    return {
        "miou": _known(mean_iou(matrix)),
        "small_miou": _known(mean_iou(matrix, taxonomy.small_names, taxonomy=taxonomy)),
        "pixel_accuracy": _known(pixel_accuracy(matrix)),
        "iou": {name: _known(float(value)) for name, value in zip(taxonomy.names, iou, strict=True)},
    }


def _known(value: float) -> float | None:
    return round(value, 6) if np.isfinite(value) else None
