"""The area that the second pass keeps from the first: large connected components of the label."""

import cv2
import numpy as np

from dgkit.labels import NUM_CLASSES

REFERENCE_AREA = 512 * 512  # label size in pixels that area thresholds refer to


def large_components(label: np.ndarray, large_area: int, classes: int = NUM_CLASSES) -> np.ndarray:
    """Return bool [H, W]: the union over classes of 8-connected components with more than ``large_area`` pixels.

    ``label`` uint8 [H, W] of train ids below ``classes``; ignore (255) belongs to no component. The threshold is scaled
    by the label's area over 512 x 512.

    Source: DGInStyle, controlnet/tools/refine.py and pipeline_refine.py.
    """
    threshold = large_area * label.size / REFERENCE_AREA
    mask = np.zeros(label.shape, dtype=bool)
    for train_id in np.unique(label):
        if train_id >= classes:
            continue
        member = (label == train_id).astype(np.uint8)
        if member.sum() <= threshold:
            continue
        _, components, statistics, _ = cv2.connectedComponentsWithStats(member, connectivity=8)
        large = statistics[:, cv2.CC_STAT_AREA] > threshold
        large[0] = False  # component 0 is the background
        mask |= large[components]
    return mask


def downscale(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale ``mask`` [H, W] to [height, width] cells: cell i takes pixel floor(i * H / height), as published."""
    rows = np.arange(height) * mask.shape[0] // height
    columns = np.arange(width) * mask.shape[1] // width
    return mask[np.ix_(rows, columns)]
