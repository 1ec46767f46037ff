"""Training data of the judge: disturbed crops of rendered scenes, drawn from a random generator."""

from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np

from dgkit.prompts import STYLE_NAMES
from dgkit.training.data.captions import style_of
from dgkit.training.data.rendered_scenes import SceneCache
from dgkit.training.judge.judge_networks import STYLE_SIZE
from dgkit.training.judge.judge_recipe import SegmenterStage

MIN_CLASS_PIXELS = 30  # pixels of a class that a scene needs to be drawn for it


def disturb(image: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """Change colour, blur, noise and JPEG quality of uint8 [H,W,3], each with ``probability`` (JPEG: half of it).

    Generated images may be softer and noisier than renders, and the judge should not depend on that.
    """
    out = image.astype(np.float32)
    if rng.random() < probability:
        gain = rng.uniform(0.8, 1.2) * rng.uniform(0.95, 1.05, 3)
        out = (out - 128) * rng.uniform(0.85, 1.15) + 128
        out = out * gain.astype(np.float32) + np.float32(rng.uniform(-12, 12))
    if rng.random() < probability:
        out = _soften(out, rng)
    if rng.random() < probability:
        out += rng.normal(0, rng.uniform(1, 9), out.shape).astype(np.float32)
    disturbed = np.clip(np.rint(out), 0, 255).astype(np.uint8)
    return _as_jpeg(disturbed, int(rng.integers(40, 95))) if rng.random() < probability / 2 else disturbed


def recolour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change exposure, gamma, contrast, saturation and white balance of uint8 [H,W,3] strongly.

    A segmenter of one look then also reads others: a sixth of the images becomes grey, a fifth as dark as a night.
    """
    out = (image.astype(np.float32) / 255) ** np.float32(rng.uniform(0.6, 1.8))
    out = (out - 0.5) * rng.uniform(0.5, 1.4) + 0.5 + rng.uniform(-0.2, 0.2)
    grey = out.mean(2, keepdims=True)
    saturation = rng.uniform(0.3, 1.5) * (rng.random() >= 1 / 6)
    out = (grey + (out - grey) * saturation) * rng.uniform(0.8, 1.2, 3)
    if rng.random() < 0.2:
        out = out * rng.uniform(0.2, 0.5)
    return np.clip(np.rint(out * 255), 0, 255).astype(np.uint8)


def _as_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    _, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None  # encoded above
    return np.ascontiguousarray(decoded[:, :, ::-1])


def _soften(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.5:
        return cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 1.2)))
    height, width = image.shape[:2]
    factor = rng.uniform(0.45, 0.9)
    small = cv2.resize(image, (round(width * factor), round(height * factor)), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    method = cv2.INTER_AREA if image.shape[0] > size else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=method)


class Arrays(Protocol):
    """Arrays by their number, in memory or read on use."""

    def __getitem__(self, index: int, /) -> np.ndarray: ...


class LabelledImages(Protocol):
    """N images of any size, with the numbers of pixels of each class."""

    @property
    def images(self) -> Arrays:
        """Return the images, each uint8 [H,W,3] RGB."""
        ...

    @property
    def labels(self) -> Arrays:
        """Return the label maps, each uint8 [H,W], class numbers and 255."""
        ...

    def __len__(self) -> int: ...

    def class_counts(self) -> np.ndarray:
        """Return the number of pixels of each class in each image, int64 [N,K]."""
        ...


class CropSampler:
    """Draws square crops for the segmenter from scene caches, or other labelled images, of any size."""

    def __init__(self, caches: Sequence[LabelledImages], stage: SegmenterStage) -> None:
        self.caches, self.stage = caches, stage
        self.scenes = [(c, i) for c, cache in enumerate(caches) for i in range(len(cache))]
        counts = np.concatenate([cache.class_counts() for cache in caches])
        self.pixels = counts.sum(0)
        found = [np.flatnonzero(counts[:, k] >= MIN_CLASS_PIXELS) for k in range(counts.shape[1])]
        self.scenes_by_class = {k: scenes for k, scenes in enumerate(found) if len(scenes)}

    def class_weights(self) -> np.ndarray:
        """Return float32 [19]: pixel shares to the power -balance, mean 1 over all pixels; 1 for absent classes."""
        share = self.pixels / self.pixels.sum()
        weights = np.where(share > 0, np.maximum(share, 1e-5) ** -self.stage.balance, 0)
        return np.where(share > 0, weights / (weights * share).sum(), 1).astype(np.float32)

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return an image uint8 [crop,crop,3] and its label uint8 [crop,crop], train ids and 255."""
        centred = rng.random() < self.stage.rare_class
        class_id = int(rng.choice(list(self.scenes_by_class))) if centred else -1
        number = int(rng.choice(self.scenes_by_class[class_id])) if centred else int(rng.integers(len(self.scenes)))
        cache, index = self.scenes[number]
        image, label = self.caches[cache].images[index], self.caches[cache].labels[index]
        y, x, side = self._window(label, class_id, rng)
        image, label = _resized(image[y : y + side, x : x + side], self.stage.crop), label[y : y + side, x : x + side]
        label = cv2.resize(label, image.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        if rng.random() < 0.5:
            image, label = image[:, ::-1], label[:, ::-1]
        if self.stage.recolour and rng.random() < self.stage.recolour:
            image = recolour(image, rng)
        return disturb(image, self.stage.disturb, rng), np.ascontiguousarray(label)

    def _window(self, label: np.ndarray, class_id: int, rng: np.random.Generator) -> tuple[int, int, int]:
        height, width = label.shape
        scale = np.exp(rng.uniform(-1, 1) * np.log(self.stage.zoom))
        side = min(round(self.stage.crop / scale), height, width)
        if class_id < 0:
            return int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side
        ys, xs = np.nonzero(label == class_id)
        anchor = int(rng.integers(len(ys)))
        # At a random position in the crop: the network must not learn that rare classes are in the middle.
        y, x = int(ys[anchor]) - int(rng.integers(side)), int(xs[anchor]) - int(rng.integers(side))
        return int(np.clip(y, 0, height - side)), int(np.clip(x, 0, width - side)), side


class StyleSampler:
    """Draws square images with the index of their style, all styles equally often."""

    def __init__(self, cache: SceneCache, probability: float) -> None:
        self.cache, self.probability = cache, probability
        styles = np.array([STYLE_NAMES.index(style_of(caption)) for caption in cache.captions])
        self.scenes_by_style = {k: np.flatnonzero(styles == k) for k in np.unique(styles).tolist()}

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """Return an image uint8 [128,128,3] and the index of its style in :data:`STYLE_NAMES`."""
        style = int(rng.choice(list(self.scenes_by_style)))
        image = self.cache.images[int(rng.choice(self.scenes_by_style[style]))]
        height, width = image.shape[:2]
        side = round(min(height, width) * rng.uniform(0.75, 1))
        y, x = rng.integers(height - side + 1), rng.integers(width - side + 1)
        view = _resized(image[y : y + side, x : x + side], STYLE_SIZE)
        return disturb(view[:, ::-1] if rng.random() < 0.5 else view, self.probability, rng), style
