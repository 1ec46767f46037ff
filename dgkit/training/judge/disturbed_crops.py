"""What the judge learns from: disturbed crops of rendered scenes, each a function of a generator alone."""

from collections.abc import Sequence

import cv2
import numpy as np

from dgkit.labels import IGNORE, NUM_CLASSES
from dgkit.prompts import STYLE_NAMES
from dgkit.training.data.captions import style_of
from dgkit.training.data.rendered_scenes import SceneCache
from dgkit.training.judge.judge_networks import STYLE_SIZE
from dgkit.training.judge.judge_recipe import SegmenterStage

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, as most published segmenters have it; of RGB / 255
STD = (0.229, 0.224, 0.225)
HOLDER_PIXELS = 30  # a scene can be drawn for a class of which it has this many pixels


def disturb(image: np.ndarray, odds: float, rng: np.random.Generator) -> np.ndarray:
    """Colour, blur, noise and JPEG, each with ``odds``; uint8 [H,W,3] to the same.

    A picture that is to be judged may be softer and noisier than a render: the judge should not mind.
    """
    out = image.astype(np.float32)
    if rng.random() < odds:
        gain = rng.uniform(0.8, 1.2) * rng.uniform(0.95, 1.05, 3)
        out = (out - 128) * rng.uniform(0.85, 1.15) + 128
        out = out * gain.astype(np.float32) + np.float32(rng.uniform(-12, 12))
    if rng.random() < odds:
        out = _soften(out, rng)
    if rng.random() < odds:
        out += rng.normal(0, rng.uniform(1, 9), out.shape).astype(np.float32)
    disturbed = np.clip(np.rint(out), 0, 255).astype(np.uint8)
    return _as_jpeg(disturbed, int(rng.integers(40, 95))) if rng.random() < odds / 2 else disturbed


def _as_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    _, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None  # it was encoded a line above
    return np.ascontiguousarray(decoded[:, :, ::-1])


def _soften(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.5:
        return cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 1.2)))
    height, width = image.shape[:2]
    factor = rng.uniform(0.45, 0.9)
    small = cv2.resize(image, (round(width * factor), round(height * factor)), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    way = cv2.INTER_AREA if image.shape[0] > size else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=way)


class CropSampler:
    """Square crops for the segmenter from caches of any size."""

    def __init__(self, caches: Sequence[SceneCache], stage: SegmenterStage) -> None:
        self.caches, self.stage = caches, stage
        counts = [np.stack([_class_counts(label) for label in cache.labels]) for cache in caches]
        self.scenes = [(c, i) for c, cache in enumerate(caches) for i in range(len(cache))]
        flat = np.concatenate(counts)
        self.pixels = flat.sum(0)
        held = [np.flatnonzero(flat[:, k] >= HOLDER_PIXELS) for k in range(NUM_CLASSES)]
        self.holders = {k: scenes for k, scenes in enumerate(held) if len(scenes)}

    def class_weights(self) -> np.ndarray:
        """float32 [19]: pixel shares to the power -balance, with a mean over pixels of 1; 1 for absent classes."""
        share = self.pixels / self.pixels.sum()
        weights = np.where(share > 0, np.maximum(share, 1e-5) ** -self.stage.balance, 0)
        return np.where(share > 0, weights / (weights * share).sum(), 1).astype(np.float32)

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 [crop,crop,3] and label uint8 [crop,crop] of train ids and 255."""
        centred = rng.random() < self.stage.rare_class
        class_id = int(rng.choice(list(self.holders))) if centred else -1
        number = int(rng.choice(self.holders[class_id])) if centred else int(rng.integers(len(self.scenes)))
        cache, index = self.scenes[number]
        image, label = self.caches[cache].images[index], self.caches[cache].labels[index]
        y, x, side = self._window(label, class_id, rng)
        image, label = _resized(image[y : y + side, x : x + side], self.stage.crop), label[y : y + side, x : x + side]
        label = cv2.resize(label, image.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        if rng.random() < 0.5:
            image, label = image[:, ::-1], label[:, ::-1]
        return disturb(image, self.stage.disturb, rng), np.ascontiguousarray(label)

    def _window(self, label: np.ndarray, class_id: int, rng: np.random.Generator) -> tuple[int, int, int]:
        height, width = label.shape
        scale = np.exp(rng.uniform(-1, 1) * np.log(self.stage.zoom))
        side = min(round(self.stage.crop / scale), height, width)
        if class_id < 0:
            return int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side
        ys, xs = np.nonzero(label == class_id)
        anchor = int(rng.integers(len(ys)))
        # Anywhere in the crop, not in its middle: the network must not learn where rare things are.
        y, x = int(ys[anchor]) - int(rng.integers(side)), int(xs[anchor]) - int(rng.integers(side))
        return int(np.clip(y, 0, height - side)), int(np.clip(x, 0, width - side)), side


class StyleSampler:
    """Square pictures and the number of their style, all styles equally often."""

    def __init__(self, cache: SceneCache, odds: float) -> None:
        self.cache, self.odds = cache, odds
        numbers = np.array([STYLE_NAMES.index(style_of(caption)) for caption in cache.captions])
        self.holders = {k: np.flatnonzero(numbers == k) for k in np.unique(numbers).tolist()}

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """Image uint8 [128,128,3] and the index into :data:`STYLE_NAMES`."""
        style = int(rng.choice(list(self.holders)))
        image = self.cache.images[int(rng.choice(self.holders[style]))]
        height, width = image.shape[:2]
        side = round(min(height, width) * rng.uniform(0.75, 1))
        y, x = rng.integers(height - side + 1), rng.integers(width - side + 1)
        view = _resized(image[y : y + side, x : x + side], STYLE_SIZE)
        return disturb(view[:, ::-1] if rng.random() < 0.5 else view, self.odds, rng), style


def _class_counts(label: np.ndarray) -> np.ndarray:
    counts = np.bincount(label.ravel(), minlength=IGNORE + 1)
    return counts[:NUM_CLASSES].astype(np.int64)
