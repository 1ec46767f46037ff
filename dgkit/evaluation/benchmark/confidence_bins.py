"""Calibration: how the confidence of a segmenter compares with its accuracy.

The expected calibration error is that of Guo et al., On Calibration of Modern Neural Networks (ICML 2017), over pixels.
"""

import threading
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dgkit.errors import InputError, UsageError
from dgkit.evaluation.benchmark.eval_sets import EvalSample
from dgkit.labels import IGNORE
from dgkit.segmenters.base import LOGITS, NUMBERS, Segmenter

BINS = 15  # of equal width, as in the paper


class ConfidenceWatch:
    """Computes the confidence of each prediction while the logits exist, and keeps it until it is taken."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self._found: dict[tuple[str, str], np.ndarray] = {}
        self._lock = threading.Lock()

    def __call__(self, sample: EvalSample, maps: Sequence[Tensor], channels: Tensor) -> None:
        """Keep the confidence of ``channels``, uint8 [H,W], from ``maps`` [K,h,w] of each view. Raises InputError."""
        segmenter = self._segmenter
        if not segmenter.values_stated and min(float(one.min()) for one in maps) >= 0:
            raise InputError(
                f"{segmenter.path}: output {segmenter.output!r} is nowhere negative for {sample.files.image}: it may "
                "be probabilities or scores, not logits",
                f"state which in {segmenter.path.with_suffix('.yaml')}: 'values: scores' or 'values: logits'",
            )
        shares = probabilities(maps, sample.label.shape, segmenter.values)
        confidence = shares.gather(0, channels.long()[None])[0].cpu().numpy()
        with self._lock:
            self._found[sample.dataset, sample.files.id] = confidence

    def take(self, sample: EvalSample) -> np.ndarray:
        """Return the confidence of a sample, float32 [H,W], and forget it."""
        with self._lock:
            return self._found.pop((sample.dataset, sample.files.id))


def refuse_numbers(segmenter: Segmenter) -> None:
    """Raise UsageError for a segmenter that gives class numbers, which have no confidence."""
    if segmenter.values == NUMBERS:
        raise UsageError(
            f"{segmenter.path} gives class numbers; calibration needs logits or probabilities",
            "export it without argmax, or omit calibration from --metrics",
        )


def probabilities(maps: Sequence[Tensor], size: Sequence[int], values: str) -> Tensor:
    """Return the class probabilities [K,H,W] at ``size`` from maps [K,h,w]; a second map is of the mirrored image.

    ``values``: "logits" get a softmax; "scores" (of query heads, or probabilities) are divided by their sum over the
    classes. The mean over the maps is returned.
    """
    found = []
    for one in maps:
        resized = functional.interpolate(one[None], size=tuple(size), mode="bilinear", align_corners=False)[0]
        if values == LOGITS:
            found.append(resized.softmax(0))
        else:
            found.append(resized / resized.sum(0).clamp_min(torch.finfo(resized.dtype).tiny))
    return found[0] if len(found) == 1 else (found[0] + found[1].flip(-1)) / 2


def bin_sums(label: np.ndarray, predicted: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Return float64 [3,15]: pixels, sum of their ``confidence``, and correct ones, by confidence.

    Bin m holds confidences above m / 15 up to (m + 1) / 15. Ignored pixels do not count.
    """
    known = label != IGNORE
    values = confidence[known].astype(np.float64)
    bins = np.clip(np.ceil(values * BINS).astype(np.int64) - 1, 0, BINS - 1)
    weights = (None, values, (label == predicted)[known].astype(np.float64))
    return np.stack([np.bincount(bins, weight, BINS).astype(np.float64) for weight in weights])


def calibration_error(sums: np.ndarray) -> float:
    """Return the expected calibration error, 0..1, from the sum of :func:`bin_sums`; nan without pixels."""
    total = sums[0].sum()
    return float(np.abs(sums[1] - sums[2]).sum() / total) if total else float("nan")
