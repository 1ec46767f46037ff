"""Accuracy by object size: pixels of small, medium and large connected regions of the label map."""

import numpy as np

# COCO's limits of 32 x 32 and 96 x 96 pixels in its usual image of 640 x 480, as shares of the image area.
LIMITS = (32**2 / (640 * 480), 96**2 / (640 * 480))
SIZES = ("small", "medium", "large")


def size_counts(label: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return int64 [2,3,K]: labelled pixels, and those predicted correctly, by size of their object and by class.

    An object is a region of one class in ``label``, uint8 [H,W] train ids, connected by sides or corners. It is small
    below the first of :data:`LIMITS`, a share of the image area, and large from the second on.
    """
    import cv2

    counts = np.zeros((2, len(SIZES), classes), np.int64)
    for number in np.unique(label[label < classes]):
        mask = (label == number).astype(np.uint8)
        found, regions, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        pixels = stats[:, cv2.CC_STAT_AREA].astype(np.int64)
        hits = np.bincount(regions[predicted == number], minlength=found)
        sizes = np.digitize(pixels / label.size, LIMITS)
        for row, values in enumerate((pixels, hits)):  # region 0 is the rest of the image
            np.add.at(counts[row, :, number], sizes[1:], values[1:])
    return counts


def size_accuracy(counts: np.ndarray) -> np.ndarray:
    """Return float64 [3,K] from the sum of :func:`size_counts`: the share of pixels predicted correctly, nan if none.

    It is a recall: a false positive has no object, and thus no size.
    """
    return np.divide(counts[1], counts[0], out=np.full(counts[0].shape, np.nan), where=counts[0] > 0)
