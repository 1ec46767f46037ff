"""Scores of label maps against label maps, from one confusion matrix."""

import numpy as np

from dgkit.labels import CLASSES, NUM_CLASSES

# What is thin or far away in a street: a generator and a segmenter lose these first.
SMALL_CLASSES = ("pole", "traffic light", "traffic sign", "person", "rider", "motorcycle", "bicycle")


def confusion(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """int64 [19,19]: pixels of class row that were called class column. Both uint8 [H,W] train ids.

    Pixels that ``label`` ignores do not count; a predicted id outside 0..18 is an error of the caller.
    """
    known = label < NUM_CLASSES
    pairs = label[known].astype(np.int64) * NUM_CLASSES + prediction[known]
    return np.bincount(pairs, minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES)


def class_iou(matrix: np.ndarray) -> np.ndarray:
    """float64 [19]: intersection over union of each class; nan for a class that occurs in no label.

    As in cityscapesScripts (evalPixelLevelSemanticLabeling.py): the union counts false positives on labelled pixels.
    """
    hits = np.diag(matrix).astype(float)
    rows = matrix.sum(1)
    union = rows + matrix.sum(0) - hits
    return np.divide(hits, union, out=np.full(len(hits), np.nan), where=rows > 0)


def mean_iou(matrix: np.ndarray, names: tuple[str, ...] = CLASSES) -> float:
    """Mean of :func:`class_iou` over the classes ``names`` that occur; nan if none does."""
    iou = class_iou(matrix)[[CLASSES.index(name) for name in names]]
    return float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")


def pixel_accuracy(matrix: np.ndarray) -> float:
    """Share of the labelled pixels that were called rightly; nan without any."""
    total = matrix.sum()
    return float(np.trace(matrix) / total) if total else float("nan")


def summary(matrix: np.ndarray) -> dict[str, object]:
    """miou, small_miou, pixel_accuracy and iou by class name, as shares 0..1; None where nothing was labelled."""
    iou = class_iou(matrix)
    return {
        "miou": _known(mean_iou(matrix)),
        "small_miou": _known(mean_iou(matrix, SMALL_CLASSES)),
        "pixel_accuracy": _known(pixel_accuracy(matrix)),
        "iou": {name: _known(float(value)) for name, value in zip(CLASSES, iou, strict=True)},
    }


def _known(value: float) -> float | None:
    return round(value, 6) if np.isfinite(value) else None
