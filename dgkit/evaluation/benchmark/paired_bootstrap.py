"""Paired bootstrap over images: how certain the difference in mIoU between two segmenters is.

Images of a data set are drawn with replacement, the same ones for all segmenters; the confusion matrices of
the drawn images are summed and scored as usual. Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993),
chapters 13 (percentile interval) and 15.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgkit.data.scores import Absent

LEVEL = 0.95
LEAST = 10  # images; with fewer, the drawn sets are too much alike for an interval to hold what it promises
_CELLS = 1 << 24  # of the drawn counts in memory at a time: 128 MiB
_HITS, _ROWS, _COLUMNS = range(3)


@dataclass(frozen=True)
class Interval:
    """A difference with the limits of its 95 % interval and its two-sided p; None where there is no value."""

    difference: float | None
    low: float | None
    high: float | None
    p: float | None

    def to_json(self) -> dict[str, float | None]:
        """Return the entry in ``report.json``."""
        return vars(self).copy()


@dataclass(frozen=True)
class Compared:
    """Differences of a segmenter to the first one: of the mIoU, and of each class (none for a mean of data sets)."""

    miou: Interval
    iou: tuple[Interval, ...]

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the entry in ``report.json``; ``names`` are those of the classes."""
        classes = dict(zip(names, (one.to_json() for one in self.iou), strict=True)) if self.iou else {}
        return {"miou": self.miou.to_json(), "iou": classes}


def compare_scores(strata: Sequence[Sequence[np.ndarray]], absent: Absent, resamples: int, seed: int) -> list[Compared]:
    """Compare the second and all further segmenters with the first one.

    ``strata[s][k]``: int64 [n,K,K+1], the confusion matrices of segmenter k on the images of data set s. Of several
    data sets the mean of their mIoU is compared, each drawn by itself. ``absent`` as in
    :func:`~dgkit.data.scores.class_iou`. With fewer than :data:`LEAST` images there is no interval.
    """
    random = np.random.default_rng(seed)
    parts = [[class_parts(matrices) for matrices in stratum] for stratum in strata]
    totals = [np.stack([one.sum(0, keepdims=True) for one in stratum]) for stratum in parts]
    drawn = [_resample(stratum, resamples, random) for stratum in parts]
    certain = all(len(stratum[0]) >= LEAST for stratum in parts)
    whole, again = ([class_values(one, absent) for one in found] for found in (totals, drawn))
    means, means_again = (np.mean([mean_values(iou) for iou in found], axis=0) for found in (whole, again))
    compared = []
    for number in range(1, len(strata[0])):
        miou = _interval(means[number] - means[0], means_again[number] - means_again[0], certain)
        classes: tuple[Interval, ...] = ()
        if len(strata) == 1:
            one, many = whole[0][number] - whole[0][0], again[0][number] - again[0][0]
            classes = tuple(_interval(one[:, k], many[:, k], certain) for k in range(one.shape[1]))
        compared.append(Compared(miou, classes))
    return compared


def class_parts(matrices: np.ndarray) -> np.ndarray:
    """Return float64 [n,3,K]: hits, labelled and predicted pixels of each class, for matrices [n,K,K+1]."""
    classes = matrices.shape[1]
    hits = np.diagonal(matrices, axis1=1, axis2=2)
    return np.stack([hits, matrices.sum(2), matrices.sum(1)[:, :classes]], axis=1).astype(np.float64)


def class_values(parts: np.ndarray, absent: Absent) -> np.ndarray:
    """Return the class IoUs [...,K] of sums of :func:`class_parts`, [...,3,K]; nan as in ``class_iou``."""
    hits, rows, columns = (parts[..., part, :] for part in (_HITS, _ROWS, _COLUMNS))
    union = rows + columns - hits
    known = (rows if absent == "skip" else union) > 0
    return np.divide(hits, union, out=np.full(hits.shape, np.nan), where=known)


def mean_values(iou: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis of the values that are not nan; nan if there are none."""
    known = np.isfinite(iou)
    count = known.sum(-1)
    total = np.where(known, iou, 0.0).sum(-1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _resample(stratum: Sequence[np.ndarray], resamples: int, random: np.random.Generator) -> np.ndarray:
    """Return float64 [segmenters,resamples,3,K]: sums over images drawn with replacement, the same for all."""
    images = len(stratum[0])
    shares = np.full(images, 1 / images)
    flat = np.concatenate([one.reshape(images, -1) for one in stratum], axis=1)
    step = max(1, _CELLS // images)
    sums = [
        random.multinomial(images, shares, min(step, resamples - start)).astype(np.float64) @ flat
        for start in range(0, resamples, step)
    ]
    shape = (resamples, len(stratum), *stratum[0].shape[1:])
    return np.concatenate(sums).reshape(shape).swapaxes(0, 1)


def _interval(observed: np.ndarray, drawn: np.ndarray, certain: bool) -> Interval:
    """Return the percentile interval of ``drawn`` and twice the smaller share of it on one side of zero."""
    difference = float(observed[0])
    if not np.isfinite(difference):
        return Interval(None, None, None, None)
    values = drawn[np.isfinite(drawn)]
    if not certain or not len(values):
        return Interval(difference, None, None, None)
    low, high = np.percentile(values, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    tail = min(int((values <= 0).sum()), int((values >= 0).sum()))
    return Interval(difference, float(low), float(high), min(1.0, 2 * (tail + 1) / (len(values) + 1)))
