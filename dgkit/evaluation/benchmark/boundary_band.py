"""Boundary IoU: the overlap of label and prediction in a narrow band along the contours of each class.

Source: Cheng et al., Boundary IoU: Improving Object-Centric Image Segmentation Evaluation (CVPR 2021), section 4.
"""

import math

import numpy as np

from dgkit.labels import IGNORE

DILATION = 0.02  # width of the band as a share of the image diagonal, as the authors choose it


def band_width(height: int, width: int) -> int:
    """Return the width of the band in pixels, at least 1."""
    return max(1, round(DILATION * math.hypot(height, width)))


def boundary_band(label: np.ndarray, distance: int) -> np.ndarray:
    """Return bool [H,W]: pixels within ``distance`` of a pixel of another value in ``label``, uint8 [H,W].

    Distances count diagonal steps as one; what lies outside of the image is another value. The band of a class thus is
    its mask minus the mask eroded ``distance`` times by 3 x 3, for all classes at once.
    """
    import cv2

    square = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    band = (cv2.dilate(label, square) != label) | (cv2.erode(label, square) != label)
    band[:distance], band[-distance:], band[:, :distance], band[:, -distance:] = True, True, True, True
    return band


def boundary_counts(label: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return int64 [3,K]: pixels of each class in the bands of the label, in those of the prediction, and in both.

    ``label`` and ``predicted`` are uint8 [H,W] train ids. Where the label is ignored, the prediction is too.
    """
    distance = band_width(*label.shape)
    predicted = np.where(label == IGNORE, np.uint8(IGNORE), predicted)
    of_label, of_prediction = boundary_band(label, distance), boundary_band(predicted, distance)
    parts = (label[of_label], predicted[of_prediction], label[of_label & of_prediction & (label == predicted)])
    return np.stack([np.bincount(part, minlength=256)[:classes] for part in parts])


def boundary_iou(counts: np.ndarray) -> np.ndarray:
    """Return float64 [K] from the sum of :func:`boundary_counts`; nan for a class neither labelled nor predicted."""
    union = counts[0] + counts[1] - counts[2]
    return np.divide(counts[2], union, out=np.full(len(union), np.nan), where=union > 0)
