"""Find the pixels of a generated image that do not show their label: array functions without files and networks.

The rule is that of FreeMask (Yang et al., NeurIPS 2023, arXiv 2310.15160, and preprocess/filter.py of its code): a
pixel is ignored if the cross-entropy of a segmenter against the label exceeds 1.25 times the mean of its class.
"""

from dataclasses import dataclass

import numpy as np

from dgkit.labels import IGNORE, NUM_CLASSES

HASH_BITS = 64
_HASH_SIDE, _DCT_SIDE = 8, 32


@dataclass(frozen=True, eq=False)
class Judgement:
    """Comparison of a segmenter's prediction with the label of one image.

    ``loss`` is the cross-entropy, float32 [H,W], nan where the label is ignore or a class that the segmenter does not
    know. ``pixels`` int64 [K] and ``losses`` float64 [K] are the number and the sum of the other pixels by class.
    ``agreement`` is the share of them that the segmenter predicts as labelled, None if there are none.
    """

    loss: np.ndarray
    pixels: np.ndarray
    losses: np.ndarray
    agreement: float | None

    @property
    def mean_loss(self) -> float | None:
        """Mean loss over the pixels that were compared, None if there are none."""
        total = int(self.pixels.sum())
        return float(self.losses.sum() / total) if total else None


def judge(logits: np.ndarray, classes: np.ndarray, label: np.ndarray, size: int = NUM_CLASSES) -> Judgement:
    """Compare ``logits`` with ``label``, uint8 [H,W] train ids of ``size`` classes.

    ``logits`` is float32 [K,H,W]; its channels are the train ids ``classes``, uint8 [K].
    """
    table = np.full(256, -1, np.int64)
    table[classes] = np.arange(len(classes))
    channel = table[label]
    known = channel >= 0
    top = logits.max(0)
    chosen = np.take_along_axis(logits, np.maximum(channel, 0)[None], 0)[0]
    loss = np.log(np.exp(logits - top).sum(0)) + top - chosen
    ids, values = label[known], loss[known].astype(np.float64)
    pixels = np.bincount(ids, minlength=size)
    losses = np.bincount(ids, values, minlength=size)
    right = int(np.count_nonzero(classes[logits.argmax(0)][known] == ids))
    agreement = right / len(ids) if len(ids) else None
    return Judgement(np.where(known, loss, np.float32(np.nan)), pixels, losses, agreement)


def class_means(pixels: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Return the mean loss of each class from its sums, float64 [K]; nan for a class without pixels."""
    return np.divide(losses, pixels, out=np.full(len(pixels), np.nan), where=pixels > 0)


def doubtful(label: np.ndarray, loss: np.ndarray, means: np.ndarray, threshold: float) -> np.ndarray:
    """Return the pixels whose loss exceeds ``threshold`` times the mean of their class, bool [H,W]; False for nan."""
    limits = np.full(256, np.nan)
    limits[: len(means)] = threshold * means
    return loss > limits[label]


def boundary_band(label: np.ndarray, width: int) -> np.ndarray:
    """Return the pixels that are at most ``width`` pixels from another class, bool [H,W].

    The distance counts steps along rows, columns and diagonals. Ignore is not a class: there is no band next to it.
    """
    if width < 1:
        return np.zeros(label.shape, bool)
    import cv2

    window = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    known = label != IGNORE
    # Lowest and highest class in the window; ignored pixels count as 255 in the former and as 0 in the latter.
    lowest = cv2.erode(np.where(known, label, IGNORE).astype(np.uint8), window)
    highest = cv2.dilate(np.where(known, label + 1, 0).astype(np.uint8), window)
    return known & (highest != lowest + 1)


def perceptual_hash(image: np.ndarray) -> int:
    """Return the 64-bit perceptual hash of uint8 [H,W,3] RGB: which of the lowest 8x8 frequencies exceed their median.

    Hashes of similar images differ in few bits. Source: Zauner, Implementation and Benchmarking of Perceptual Image
    Hash Functions (2010), section 3.2.1 (pHash).
    """
    import cv2

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_DCT_SIDE, _DCT_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[1 : _HASH_SIDE + 1, 1 : _HASH_SIDE + 1]
    bits = (low > np.median(low)).ravel()
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near_duplicates(hashes: list[int], distance: int) -> list[int | None]:
    """Return for each image the first earlier kept image whose hash differs in at most ``distance`` bits.

    None means that there is no such image, so that the image itself is kept.
    """
    codes = np.array(hashes, np.uint64)
    kept = np.zeros(len(codes), np.uint64)
    numbers: list[int] = []
    found: list[int | None] = []
    for number, code in enumerate(codes):
        similar = np.flatnonzero(np.bitwise_count(kept[: len(numbers)] ^ code) <= distance)
        found.append(numbers[int(similar[0])] if len(similar) else None)
        if not len(similar):
            kept[len(numbers)] = code
            numbers.append(number)
    return found
