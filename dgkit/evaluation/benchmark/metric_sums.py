"""The metrics in addition to the mIoU: their sums over images, and the scores that follow from the sums."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dgkit.data.scores import Absent, class_accuracy, class_iou
from dgkit.evaluation.benchmark.boundary_band import boundary_counts, boundary_iou
from dgkit.evaluation.benchmark.confidence_bins import BINS, bin_sums, calibration_error
from dgkit.evaluation.benchmark.object_sizes import SIZES, size_accuracy, size_counts
from dgkit.taxonomies import Taxonomy

Sums = dict[str, np.ndarray]
"""Arrays of one image or of several, by metric."""

SUMMED = ("boundary", "sizes", "calibration")  # need more than the confusion matrix
# Headings of the single figures of each metric, by their key in a report.
HEADINGS = {
    "mean_accuracy": "mean accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
    "boundary_miou": "boundary mIoU",
    "ece": "calibration error (ECE)",
    **{f"accuracy_{size}": f"accuracy, {size} objects" for size in SIZES},
}
# By-class figures of each metric, by their key in a report.
CLASS_KEYS = ("class_accuracy", "boundary_iou", *(f"class_accuracy_{size}" for size in SIZES))


def shapes_of(classes: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of the sums of each metric."""
    return {"boundary": (3, classes), "sizes": (2, len(SIZES), classes), "calibration": (3, BINS)}


def measure_image(
    metrics: Iterable[str],
    label: np.ndarray,
    predicted: np.ndarray,
    classes: int,
    confidence: np.ndarray | None = None,
) -> Sums:
    """Return the sums of one image for ``metrics``; ``label`` and ``predicted`` are uint8 [H,W] train ids.

    ``confidence``: float32 [H,W], for calibration.
    """
    sums = {}
    if "boundary" in metrics:
        sums["boundary"] = boundary_counts(label, predicted, classes)
    if "sizes" in metrics:
        sums["sizes"] = size_counts(label, predicted, classes)
    if confidence is not None:
        sums["calibration"] = bin_sums(label, predicted, confidence)
    return sums


def metric_scores(
    metrics: Sequence[str], matrix: np.ndarray, sums: Mapping[str, np.ndarray], taxonomy: Taxonomy, absent: Absent
) -> dict[str, Any]:
    """Return the figures of ``metrics``, shares of 1 or None, for a confusion matrix and the sums of the same images.

    Means over classes exclude those that are in no label, except that of the boundary IoU where ``absent`` is "zero":
    it then has the classes of the mIoU.
    """
    found: dict[str, Any] = {}
    if "accuracy" in metrics:
        of_class, iou = class_accuracy(matrix), class_iou(matrix, "zero")
        found["mean_accuracy"] = _mean(of_class)
        found["frequency_weighted_iou"] = _weighted(iou, matrix.sum(1))
        found["class_accuracy"] = by_class(of_class, taxonomy)
    if "boundary" in metrics:
        of_class = np.where(np.isfinite(class_iou(matrix, absent)), boundary_iou(sums["boundary"]), np.nan)
        found["boundary_miou"] = _mean(of_class)
        found["boundary_iou"] = by_class(of_class, taxonomy)
    if "calibration" in metrics:
        found["ece"] = known_share(calibration_error(sums["calibration"]))
        found["calibration_bins"] = [
            {"pixels": int(pixels), "confidence": confidence / pixels, "accuracy": right / pixels}
            for pixels, confidence, right in sums["calibration"].T.tolist()
            if pixels
        ]
    if "sizes" in metrics:
        for size, of_class in zip(SIZES, size_accuracy(sums["sizes"]), strict=True):
            found[f"accuracy_{size}"] = _mean(of_class)
            found[f"class_accuracy_{size}"] = by_class(of_class, taxonomy)
    return found


def known_share(value: float) -> float | None:
    """Return ``value``, or None if it is not finite, as JSON needs it."""
    return value if math.isfinite(value) else None


def _mean(values: np.ndarray) -> float | None:
    return float(np.nanmean(values)) if np.isfinite(values).any() else None


def _weighted(values: np.ndarray, weights: np.ndarray) -> float | None:
    """Return the mean weighted by labelled pixels; classes without labels have no weight."""
    total = weights.sum()
    return float((np.nan_to_num(values) * weights).sum() / total) if total else None


def by_class(values: np.ndarray, taxonomy: Taxonomy) -> dict[str, float | None]:
    """Return values [K] by the names of the classes, None for nan."""
    return {name: known_share(float(value)) for name, value in zip(taxonomy.names, values, strict=True)}
