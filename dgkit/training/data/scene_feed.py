"""The feed that cuts crops from rendered scenes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np

from dgkit.data.crops import CropBox, CropRules, class_probabilities
from dgkit.errors import UsageError
from dgkit.labels import NUM_CLASSES
from dgkit.prompts import caption, compose
from dgkit.training.data.captions import style_of
from dgkit.training.data.feed import Example, LatentSource, Moments, WholeImage, check_grid, place_crop
from dgkit.training.data.rendered_scenes import SceneCache


class SceneFeed:
    """Square crops of ``size`` pixels from scene caches of several zooms or roles.

    ``shares`` are the sampling weights of the caches (``None``: their numbers of scenes). A share ``rare_share`` of the
    crops is drawn by rare class sampling (DGInStyle, controlnet/dataset_GTA.py), with the pixel threshold scaled to the
    crop's area. ``captions="crop"`` names the classes of the crop instead of the scene; the style word stays. ``flip``
    is the share of mirrored crops, without latents only. ``latents`` are posterior means, float16 [N, C, h, w] per
    cache; crops then lie on their grid. Raises :class:`UsageError` for settings that cannot be combined.
    """

    def __init__(
        self,
        caches: Sequence[SceneCache],
        size: int,
        *,
        shares: Sequence[float] | None = None,
        rare_share: float = 0.0,
        captions: Literal["scene", "crop"] = "scene",
        flip: float = 0.0,
        latents: Sequence[np.ndarray] | None = None,
    ) -> None:
        weights = np.array([len(cache) for cache in caches] if shares is None else shares, dtype=np.float64)
        if not len(caches) or len(weights) != len(caches) or weights.min() < 0 or weights.sum() <= 0:
            raise UsageError(f"{len(caches)} scene caches with shares {shares}", "give one share per cache")
        if any(min(cache.labels.shape[1:]) < size for cache in caches):
            heights = [cache.labels.shape[1] for cache in caches]
            raise UsageError(f"crops of {size} pixels from scenes {heights} pixels high", "render larger scenes")
        self.caches, self.size, self.shares = tuple(caches), size, weights / weights.sum()
        self.rare_share, self.captions, self.flip = rare_share, captions, flip
        self.grid, self.pixels = 1, True
        self.source: LatentSource | None = None
        self.arrays = None if latents is None else tuple(latents)
        if self.arrays is not None:
            self.grid = caches[0].labels.shape[1] // self.arrays[0].shape[2]
            self._check_latents()
        if rare_share:
            counts = [cache.class_counts() for cache in caches]
            threshold = CropRules(size).pixel_threshold
            self.probabilities = class_probabilities(sum(c.sum(0) for c in counts))
            self.scenes_by_class = [[np.flatnonzero(c[:, k] > threshold) for k in range(NUM_CLASSES)] for c in counts]

    def draw(self, rng: np.random.Generator) -> Example:
        """Return a random crop of a random scene."""
        which, index, box = self._pick(rng)
        cache, (y, x) = self.caches[which], (box.y, box.x)
        window = np.s_[index, y : y + self.size, x : x + self.size]
        image = np.array(cache.images[window]) if self.pixels else None
        label = np.array(cache.labels[window])
        height, width = cache.labels.shape[1:]
        left = x
        if self.flip and rng.random() < self.flip:
            left = width - self.size - x
            label = np.ascontiguousarray(label[:, ::-1])
            image = None if image is None else np.ascontiguousarray(image[:, ::-1])
        text = cache.captions[index]
        style = style_of(text)
        if self.captions == "crop":
            text = compose(caption(label), style)
        frame = (height, width, y, left)
        return Example(image, self._moments(which, index, box), label, text, style, cache.key(index), frame)

    def whole_images(self) -> Sequence[WholeImage]:
        """Return every scene."""
        return [
            WholeImage(cache.key(i), partial(np.array, cache.images[i]))
            for cache in self.caches
            for i in range(len(cache))
        ]

    def with_latents(self, latents: LatentSource, pixels: bool = False) -> SceneFeed:
        """Return the same feed with crops cut from ``latents``."""
        feed = copy.copy(self)
        feed.arrays, feed.source, feed.pixels, feed.grid = None, latents, pixels, check_grid(self.size, latents)
        feed._check_latents()
        return feed

    def _check_latents(self) -> None:
        if self.flip:
            raise UsageError("crops of latents cannot be mirrored: an encoder is not symmetric", "leave flip at 0")
        if self.size % self.grid:
            raise UsageError(
                f"crops of {self.size} pixels are not whole latent cells", f"use a multiple of {self.grid}"
            )

    def _pick(self, rng: np.random.Generator) -> tuple[int, int, CropBox]:
        """Return the index of a cache, the index of a scene in it, and a window."""
        which = int(rng.choice(len(self.caches), p=self.shares))
        shape = self.caches[which].labels.shape[1:]
        if self.rare_share and rng.random() < self.rare_share:
            class_id = int(rng.choice(NUM_CLASSES, p=self.probabilities))
            scenes = self.scenes_by_class[which][class_id]
            if len(scenes):
                index = int(rng.choice(scenes))
                pixels = np.flatnonzero(self.caches[which].labels[index] == class_id)
                y, x = divmod(int(pixels[rng.integers(len(pixels))]), shape[1])
                return which, index, place_crop(shape, self.size, self.grid, rng, (y, x))
        index = int(rng.integers(len(self.caches[which])))
        return which, index, place_crop(shape, self.size, self.grid, rng)

    def _moments(self, which: int, index: int, box: CropBox) -> Moments | None:
        if self.source is not None:
            return self.source.window(self.caches[which].key(index), box.y, box.x, self.size)
        if self.arrays is None:
            return None
        y, x, side = box.y // self.grid, box.x // self.grid, self.size // self.grid
        mean = self.arrays[which][index, :, y : y + side, x : x + side].astype(np.float32)
        return mean, np.zeros_like(mean)
