"""Check that label maps look like street scenes in the id system with which they are read.

Small ids are valid in several systems: CamVid's sky reads as the road of Cityscapes. The position and the frequency of
classes distinguish the systems.
"""

from collections.abc import Sequence

import numpy as np

from dgkit.data.labelmap import find_encoding
from dgkit.data.samples import Dataset, Sample
from dgkit.errors import LabelError
from dgkit.labels import CLASSES, ENCODINGS, FORBIDDEN, NUM_CLASSES, Encoding

PROBED = 16  # label maps that are read, spread over the set
# Share of the labelled pixels in Cityscapes train, in percent; mean row and its deviation as parts of the height.
_SHARES = (36.9, 6.1, 22.8, 0.66, 0.88, 1.2, 0.21, 0.55, 15.9, 1.2, 4.0, 1.2, 0.14, 7.0, 0.27, 0.24, 0.23, 0.1, 0.41)
_ROWS = (0.75, 0.65, 0.35, 0.5, 0.5, 0.4, 0.3, 0.3, 0.35, 0.6, 0.15, 0.5, 0.5, 0.55, 0.5, 0.5, 0.5, 0.55, 0.55)
_SPREAD = 0.2
_IGNORED = np.log(0.02)  # of a pixel that a system ignores: other systems must not win by ignoring
_MARGIN = 1.0  # least advantage of another system per pixel, as a logarithm
_ROAD, _SKY = CLASSES.index("road"), CLASSES.index("sky")


def doubt(dataset: Dataset) -> str | None:
    """Return a warning if the label maps look like those of another id system than the one with which they are read.

    At most :data:`PROBED` maps are read; those that cannot be read are left to whoever reads them all.
    """
    if not dataset.taxonomy.is_default:  # of other classes, frequency and position are not known
        return None
    system = find_encoding(dataset.samples[0].encoding)
    if system.colours is not None:  # colours are not mistaken for each other as small ids are
        return None
    same = [sample for sample in dataset.samples if sample.encoding == system.name]
    pixels, rows = _measure(same[:: max(1, len(same) // PROBED)][:PROBED])
    found = np.flatnonzero(pixels)
    others = [
        other for other in ENCODINGS.values()
        if other is not system and (other.table[found] != FORBIDDEN).all() and _is_street(other, pixels, rows)
    ]  # fmt: skip
    if not others:
        return None
    score = _likelihood(system, pixels, rows)
    best = max(others, key=lambda other: _likelihood(other, pixels, rows))
    if _likelihood(best, pixels, rows) - score < _MARGIN:
        return None
    return (
        f"the label maps of {dataset.root} are read as {system.description}, but by the position and frequency of "
        f"classes they look like {best.description}; check with dgkit stats, and if so add --encoding {best.name}"
    )


def _measure(samples: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """Return for each of the 256 ids the sum of its shares of the maps, and its mean row, 0..1: float64 [256] each."""
    pixels, rows = np.zeros(256), np.zeros(256)
    for sample in samples:
        try:
            height, _ = sample.size()
            raw = sample.ids()
        except LabelError:
            continue
        for y, row in enumerate(raw):
            counts = np.bincount(row, minlength=256)[:256] / raw.size
            pixels += counts
            rows += counts * (y + 0.5) / height
    return pixels, np.divide(rows, pixels, out=np.full(256, 0.5), where=pixels > 0)


def _by_class(system: Encoding, pixels: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels and mean row of the 19 classes and, last, of ignore, as ``system`` reads the ids."""
    target = np.where(system.table < NUM_CLASSES, system.table, NUM_CLASSES)
    target = np.where(system.table == FORBIDDEN, NUM_CLASSES, target).astype(np.int64)
    total = np.bincount(target, pixels, NUM_CLASSES + 1)
    weighted = np.bincount(target, pixels * rows, NUM_CLASSES + 1)
    return total, np.divide(weighted, total, out=np.full(NUM_CLASSES + 1, 0.5), where=total > 0)


def _is_street(system: Encoding, pixels: np.ndarray, rows: np.ndarray) -> bool:
    """Return whether road and sky are there and lie where they belong, so that a few odd maps cause no warning."""
    total, mean = _by_class(system, pixels, rows)
    share = total / max(total.sum(), 1e-9)
    return bool(share[_ROAD] > 0.05 and mean[_ROAD] > 0.55 and share[_SKY] > 0.01 and mean[_SKY] < 0.4)


def _likelihood(system: Encoding, pixels: np.ndarray, rows: np.ndarray) -> float:
    """Return the mean log-likelihood of a pixel by class frequency and position; a constant is left out."""
    total, mean = _by_class(system, pixels, rows)
    values = np.append(
        np.log(np.array(_SHARES) / 100) - (mean[:-1] - np.array(_ROWS)) ** 2 / (2 * _SPREAD**2), _IGNORED
    )
    return float((total * values).sum() / max(total.sum(), 1e-9))
