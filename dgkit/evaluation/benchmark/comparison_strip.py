"""Pictures of a comparison: label, predictions, and what a segmenter gains and loses against the first one."""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from dgkit.data.labelmap import colorize
from dgkit.data.samples import Sample
from dgkit.evaluation.benchmark.eval_sets import BadSample, read_eval_sample, read_sample
from dgkit.evaluation.benchmark.protocols import Protocol
from dgkit.labels import IGNORE
from dgkit.taxonomies import Taxonomy

HEIGHT = 240  # pixels, of the pictures on the page
RIGHT, WRONG, GAINED, LOST = (236, 240, 244), (204, 38, 38), (22, 134, 96), (204, 38, 38)
STILL_WRONG = (168, 174, 184)


@dataclass
class ComparedScene:
    """One picture, at the size of the page. ``label`` and ``predictions``: uint8 [h,w] train ids.

    ``scores``: the mIoU by each segmenter; ``predictions`` are added in the same order.
    """

    files: Sample
    scores: list[float]
    photograph: Image.Image
    label: np.ndarray
    predictions: list[np.ndarray] = field(default_factory=list)


def read_scene(dataset: str, sample: Sample, scores: list[float], protocol: Protocol) -> ComparedScene | None:
    """Return a picture and its label, or None if they can no longer be read."""
    try:
        image, _ = read_sample(dataset, sample)
        label = read_eval_sample(dataset, sample, protocol).label
    except BadSample:
        return None
    width = max(1, round(image.shape[1] * HEIGHT / image.shape[0]))
    photograph = Image.fromarray(image).resize((width, HEIGHT), Image.Resampling.LANCZOS)
    return ComparedScene(sample, scores, photograph, shrunk(label, (HEIGHT, width)))


def shrunk(label: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return train ids, uint8, at another size (height, width); none are mixed."""
    resized = Image.fromarray(label).resize((shape[1], shape[0]), Image.Resampling.NEAREST)
    return np.asarray(resized)


def error_map(label: np.ndarray, predicted: np.ndarray) -> Image.Image:
    """Draw the pixels that are predicted wrongly in red; ignored ones are black."""
    shown = np.where((label == predicted)[..., None], np.array(RIGHT, np.uint8), np.array(WRONG, np.uint8))
    shown[label == IGNORE] = 0
    return Image.fromarray(shown)


def change_map(label: np.ndarray, first: np.ndarray, predicted: np.ndarray) -> Image.Image:
    """Draw what ``predicted`` gains (green) and loses (red) against ``first``; grey is wrong in both."""
    before, now = label == first, label == predicted
    shown = np.where((before & now)[..., None], np.array(RIGHT, np.uint8), np.array(STILL_WRONG, np.uint8))
    shown[now & ~before], shown[before & ~now] = GAINED, LOST
    shown[label == IGNORE] = 0
    return Image.fromarray(shown)


def class_map(label: np.ndarray, taxonomy: Taxonomy) -> Image.Image:
    """Draw train ids in the colours of the classes."""
    return Image.fromarray(colorize(label, taxonomy))
