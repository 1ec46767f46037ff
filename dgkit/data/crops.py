"""Rare class sampling: choose a class, a label map and a window of it for the next scene.

Formulas and constants are those of DGInStyle (controlnet/dataset_GTA.py and gen_datasets.py), with four corrections: a
map smaller than the window is padded with ignore instead of road, every pixel of a class can be the anchor, a class
with a single pixel works, and a file whose windows hold too little of the class is replaced by another one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dgkit.data.index import ClassIndex
from dgkit.errors import LabelError, UsageError
from dgkit.labels import IGNORE

REFERENCE_SIZE = 512  # side of the window in pixels for which the published pixel threshold is stated
REFERENCE_PIXELS = 3000  # a file is eligible for a class if it has more pixels of it than this
MAX_FILES = 5  # files tried for one class before the best window so far is kept


@dataclass(frozen=True)
class CropRules:
    """Rules for choosing windows.

    ``size``: side of the window in pixels, or (height, width). ``min_pixels``: a file is eligible for a class if it
    holds more pixels of it than this; None scales the published 3000 from 512x512 to the window's area. ``min_share``:
    a window meets the rule if more than this share of its area is the class. ``attempts``: windows tried per file.
    ``temperature``: temperature of the class probabilities. Raises UsageError for values out of range.
    """

    size: int | tuple[int, int]
    min_pixels: float | None = None
    min_share: float = 0.01
    attempts: int = 10
    temperature: float = 0.01

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise UsageError(
                f"crop size {self.size} is not allowed; it must be at least 1 pixel", "use for example --size 512"
            )
        if self.attempts < 1 or self.temperature <= 0 or not 0 <= self.min_share < 1 or self.pixel_threshold < 0:
            raise UsageError(
                f"crop rules attempts={self.attempts}, temperature={self.temperature}, min_share={self.min_share}, "
                f"min_pixels={self.min_pixels} are not allowed: attempts >= 1, temperature > 0, 0 <= min_share < 1, "
                "min_pixels >= 0",
                "omit them to use the published values",
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the window."""
        return (self.size, self.size) if isinstance(self.size, int) else (int(self.size[0]), int(self.size[1]))

    @property
    def pixel_threshold(self) -> float:
        """Number of pixels of a class that a file must exceed to be eligible for it."""
        if self.min_pixels is not None:
            return float(self.min_pixels)
        height, width = self.shape
        return REFERENCE_PIXELS * height * width / REFERENCE_SIZE**2

    @property
    def share_threshold(self) -> float:
        """Number of pixels of its class that a window must exceed to meet the rule: 2621.44 for 512x512."""
        height, width = self.shape
        return self.min_share * height * width


@dataclass(frozen=True)
class CropBox:
    """A window in pixels; it extends beyond the right and lower border of a map smaller than itself."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class Draw:
    """Result of :func:`draw_crop`. ``label`` is uint8 [height, width] of train ids, read-only.

    ``class_id`` is None for a window chosen without a class. ``rule_met`` is False if no window had enough of the
    class. ``attempts`` and ``files_tried`` count the windows and files that were tried.
    """

    sample_index: int
    class_id: int | None
    box: CropBox
    label: np.ndarray
    rule_met: bool
    attempts: int
    files_tried: int


def class_probabilities(
    counts: np.ndarray | Sequence[float], temperature: float = 0.01, eligible: np.ndarray | None = None
) -> np.ndarray:
    """Return the probability of each class, float64 [19] that sums to 1: P(c) ~ exp((1 - f_c) / T), f_c = n_c / sum n.

    ``counts`` [19] are the pixels of each class over all maps, without ignore. Classes without pixels, and those not in
    the boolean mask ``eligible``, get 0. Source: DAFormer, equation of rare class sampling, as in DGInStyle. Raises
    LabelError if no class is left.
    """
    pixels = np.asarray(counts, dtype=np.float64)
    mask = pixels > 0 if eligible is None else (pixels > 0) & eligible
    if not mask.any():
        raise LabelError("no class to sample: every pixel is ignored", "check the label maps with dgkit stats")
    exponent = np.where(mask, (1 - pixels / pixels.sum()) / temperature, -np.inf)
    weights = np.exp(exponent - exponent.max())
    return weights / weights.sum()


def drawable_classes(index: ClassIndex, rules: CropRules, counts: np.ndarray | None = None) -> np.ndarray:
    """Return the class probabilities of :func:`draw_crop`, float64 [19]; 0 for classes without an eligible file.

    ``counts`` [19] replace the pixels of each class in the label maps; a class needs pixels in both.
    """
    eligible = np.any(index.counts > _threshold(index, rules), axis=0)
    pixels = index.counts.sum(axis=0) if counts is None else counts
    return class_probabilities(pixels, rules.temperature, np.asarray(eligible))


def anchor_box(y: int, x: int, height: int, width: int, size: int | tuple[int, int]) -> CropBox:
    """Return the window of ``size`` centred on pixel (y, x) of a map [height, width], shifted to lie inside it.

    ``min(max(0, x - size/2), width - size)``; a map smaller than the window gets a window that starts at 0.
    """
    box_height, box_width = (size, size) if isinstance(size, int) else size
    left = min(max(0, x - box_width // 2), max(0, width - box_width))
    top = min(max(0, y - box_height // 2), max(0, height - box_height))
    return CropBox(left, top, box_width, box_height)


def crop(label: np.ndarray, box: CropBox) -> np.ndarray:
    """Return the window ``box`` of a map [H, W], uint8 [box.height, box.width], read-only, 255 outside the map."""
    part = label[box.y : box.y + box.height, box.x : box.x + box.width]
    if part.shape == (box.height, box.width):
        result = np.ascontiguousarray(part).copy()
    else:
        result = np.full((box.height, box.width), IGNORE, dtype=np.uint8)
        result[: part.shape[0], : part.shape[1]] = part
    result.setflags(write=False)
    return result


def draw_crop(
    index: ClassIndex,
    rules: CropRules,
    rng: np.random.Generator,
    rare: bool = True,
    counts: np.ndarray | None = None,
) -> Draw:
    """Sample a rare class, a file that holds enough of it, a pixel of the class, and the window around that pixel.

    A window must have more than ``rules.min_share`` of its class. After ``rules.attempts`` windows of a file another
    file of the same class is tried, up to :data:`MAX_FILES`; then the window with most of the class is returned with
    ``rule_met`` False. If no file is eligible, one pixel of a class is enough. Without ``rare``, file and window are
    sampled uniformly. ``counts`` [19] replace the class frequencies of the maps, as in :func:`drawable_classes`. The
    result depends on the arguments and the state of ``rng`` only.

    Raises LabelError if nothing can be sampled or a map changed after it was indexed.
    """
    if not rare:
        return _draw_uniform(index, rules, rng)
    threshold = _threshold(index, rules)
    probabilities = drawable_classes(index, rules, counts)
    class_id = int(rng.choice(len(probabilities), p=probabilities))
    files = rng.permutation(np.flatnonzero(index.counts[:, class_id] > threshold))[:MAX_FILES]
    best: tuple[int, int, CropBox, np.ndarray] | None = None
    attempts = 0
    for tried, sample_index in enumerate(files.tolist(), 1):
        label = index.read(sample_index)
        pixels = np.flatnonzero(label == class_id)
        if not len(pixels):
            raise _changed(index, sample_index)
        # A file that holds too little of the class for any window gets one attempt.
        for _ in range(rules.attempts if len(pixels) > rules.share_threshold else 1):
            attempts += 1
            y, x = divmod(int(pixels[rng.integers(len(pixels))]), label.shape[1])
            box = anchor_box(y, x, label.shape[0], label.shape[1], rules.shape)
            window = crop(label, box)
            count = int(np.count_nonzero(window == class_id))
            if count > rules.share_threshold:
                return Draw(sample_index, class_id, box, window, True, attempts, tried)
            if best is None or count > best[0]:
                best = (count, sample_index, box, window)
    assert best is not None  # classes without a file have probability 0
    _, sample_index, box, window = best
    return Draw(sample_index, class_id, box, window, False, attempts, len(files))


def _draw_uniform(index: ClassIndex, rules: CropRules, rng: np.random.Generator) -> Draw:
    sample_index = int(rng.integers(len(index.sizes)))
    label = index.read(sample_index)
    height, width = rules.shape
    y = int(rng.integers(max(0, label.shape[0] - height) + 1))
    x = int(rng.integers(max(0, label.shape[1] - width) + 1))
    box = CropBox(x, y, width, height)
    return Draw(sample_index, None, box, crop(label, box), True, 1, 1)


def _threshold(index: ClassIndex, rules: CropRules) -> float:
    threshold = rules.pixel_threshold
    return threshold if (index.counts > threshold).any() else 0


def _changed(index: ClassIndex, sample_index: int) -> LabelError:
    path = index.dataset.samples[sample_index].label
    return LabelError(f"{path} changed after it was indexed", "run the command again to update the index")
