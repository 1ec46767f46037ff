"""Rendered scenes on disk as plain arrays, so that a training step costs no drawing, and the feed that cuts them.

A cache folder holds ``images.npy`` uint8 [N,H,W,3] RGB, ``labels.npy`` uint8 [N,H,W] train ids and 255, and
``captions.json``, which counts the scenes rendered so far, so an interrupted rendering goes on.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib.format import open_memmap

from dgkit.data.crops import CropBox, CropRules, class_probabilities
from dgkit.errors import UsageError
from dgkit.files import atomic_write, output_error
from dgkit.labels import NUM_CLASSES
from dgkit.locks import locked
from dgkit.progress import Advance
from dgkit.prompts import caption, compose
from dgkit.training.data.captions import style_of
from dgkit.training.data.feed import Example, Latents, Moments, Picture, check_grid, place
from dgkit.world import render

CHUNK = 64


@dataclass(frozen=True, eq=False)
class SceneCache:
    """N scenes of one role and size. ``images`` uint8 [N,H,W,3], ``labels`` uint8 [N,H,W], ``captions`` N strings.

    ``folder`` is where the arrays are mapped from, ``None`` for arrays in memory; ``name`` tells caches apart.
    """

    images: np.ndarray
    labels: np.ndarray
    captions: tuple[str, ...]
    folder: Path | None = None
    name: str = "scenes"

    def __len__(self) -> int:
        return len(self.captions)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.folder is not None:  # a worker process maps the files too, instead of receiving gigabytes
            return open_scenes, (self.folder,)
        return SceneCache, (self.images, self.labels, self.captions, None, self.name)


def render_scenes(
    folder: Path,
    role: str,
    count: int,
    seed: int,
    height: int,
    workers: int,
    progress: Advance | None = None,
) -> SceneCache:
    """Render ``count`` scenes of ``height`` x 2 ``height`` pixels into ``folder``, or finish what is there.

    ``workers`` processes share the drawing; 0 draws in this one. Several trainings may ask for one folder at once: one
    renders, the others wait. ``progress`` is called with (scenes done, all).

    Raises :class:`OutputError` if the folder cannot be written or has no room for all scenes.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            _render_missing(folder, role, count, seed, height, workers, progress)
    except OSError as error:
        raise output_error(folder, error) from error
    return open_scenes(folder)


def _render_missing(
    folder: Path,
    role: str,
    count: int,
    seed: int,
    height: int,
    workers: int,
    progress: Advance | None,
) -> None:
    settings = json.dumps({"role": role, "count": count, "seed": seed, "height": height})
    images, labels = _arrays(folder, settings, (count, height, 2 * height))
    captions = _captions(folder)
    draw = partial(_render, role=role, seed=seed, height=height)
    with _mapper(workers if len(captions) < count else 0) as mapped:
        while len(captions) < count:
            first = len(captions)
            last = min(count, first + CHUNK * max(1, workers // 2))
            for i, (image, label, text) in enumerate(mapped(draw, range(first, last)), first):
                images[i], labels[i] = image, label
                captions.append(text)
            images.flush()
            labels.flush()
            atomic_write(folder / "captions.json", json.dumps(captions).encode())
            if progress:
                progress(last, count)


def open_scenes(folder: Path) -> SceneCache:
    """The scenes of a finished cache folder, mapped read-only."""
    images = np.load(folder / "images.npy", mmap_mode="r")
    labels = np.load(folder / "labels.npy", mmap_mode="r")
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    name = "city {role}, seed {seed}, {height} pixels high".format(**settings)
    return SceneCache(images, labels, tuple(_captions(folder)), folder, name)


class SceneFeed:
    """Square crops of ``size`` pixels from scene caches of several zooms or roles.

    ``shares`` are the odds of the caches (``None``: their numbers of scenes). A share ``rare_share`` of the crops is
    drawn by rare class sampling (DGInStyle, controlnet/dataset_GTA.py), the pixel threshold scaled to the crop's area.
    ``captions="crop"`` names the classes of the crop instead of the scene's; the style word stays. ``flip`` is the
    share of crops mirrored, for pixels only. ``latents`` are one array per cache of posterior means, float16
    [N, C, h, w]; crops then lie on their grid. Raises :class:`UsageError` for settings that do not go together.
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
        self.grid, self.pixels, self.lookup = 1, True, None
        self.arrays = None if latents is None else tuple(latents)
        if self.arrays is not None:
            self.grid = caches[0].labels.shape[1] // self.arrays[0].shape[2]
            self._check_latents()
        if rare_share:
            counts = [_class_counts(cache.labels) for cache in caches]
            threshold = CropRules(size).pixel_threshold
            self.probabilities = class_probabilities(sum(c.sum(0) for c in counts))
            self.holders = [[np.flatnonzero(c[:, k] > threshold) for k in range(NUM_CLASSES)] for c in counts]

    lookup: Latents | None

    def draw(self, rng: np.random.Generator) -> Example:
        which, index, box = self._pick(rng)
        cache, (y, x) = self.caches[which], (box.y, box.x)
        window = np.s_[index, y : y + self.size, x : x + self.size]
        image = np.array(cache.images[window]) if self.pixels else None
        label = np.array(cache.labels[window])
        if self.flip and rng.random() < self.flip:
            label = np.ascontiguousarray(label[:, ::-1])
            image = None if image is None else np.ascontiguousarray(image[:, ::-1])
        text = cache.captions[index]
        style = style_of(text)
        if self.captions == "crop":
            text = compose(caption(label), style)
        return Example(image, self._moments(which, index, box), label, text, style, _key(cache, index))

    def pictures(self) -> Sequence[Picture]:
        return [
            Picture(_key(cache, i), partial(np.array, cache.images[i]))
            for cache in self.caches
            for i in range(len(cache))
        ]

    def with_latents(self, latents: Latents, pixels: bool = False) -> SceneFeed:
        feed = copy.copy(self)
        feed.arrays, feed.lookup, feed.pixels, feed.grid = None, latents, pixels, check_grid(self.size, latents)
        feed._check_latents()
        return feed

    def _check_latents(self) -> None:
        if self.flip:
            raise UsageError("crops of latents cannot be mirrored: an encoder is not symmetric", "leave flip at 0")
        if self.size % self.grid:
            raise UsageError(f"crops of {self.size} pixels are no whole latent cells", f"use a multiple of {self.grid}")

    def _pick(self, rng: np.random.Generator) -> tuple[int, int, CropBox]:
        """Cache, scene and window."""
        which = int(rng.choice(len(self.caches), p=self.shares))
        shape = self.caches[which].labels.shape[1:]
        if self.rare_share and rng.random() < self.rare_share:
            class_id = int(rng.choice(NUM_CLASSES, p=self.probabilities))
            holders = self.holders[which][class_id]
            if len(holders):
                index = int(rng.choice(holders))
                pixels = np.flatnonzero(self.caches[which].labels[index] == class_id)
                y, x = divmod(int(pixels[rng.integers(len(pixels))]), shape[1])
                return which, index, place(shape, self.size, self.grid, rng, (y, x))
        index = int(rng.integers(len(self.caches[which])))
        return which, index, place(shape, self.size, self.grid, rng)

    def _moments(self, which: int, index: int, box: CropBox) -> Moments | None:
        if self.lookup is not None:
            return self.lookup.window(_key(self.caches[which], index), box.y, box.x, self.size)
        if self.arrays is None:
            return None
        y, x, side = box.y // self.grid, box.x // self.grid, self.size // self.grid
        mean = self.arrays[which][index, :, y : y + side, x : x + side].astype(np.float32)
        return mean, np.zeros_like(mean)


def _key(cache: SceneCache, index: int) -> str:
    return f"{cache.name}, scene {index}"


def _class_counts(labels: np.ndarray) -> np.ndarray:
    """Pixels of each class, int64 [N,19], of uint8 [N,H,W]."""
    return np.stack([np.bincount(label.ravel(), minlength=256)[:NUM_CLASSES] for label in labels])


def _render(index: int, role: str, seed: int, height: int) -> tuple[np.ndarray, np.ndarray, str]:
    scene = render(role, seed, index, height=height, width=2 * height)
    return scene.image, scene.label, scene.caption


@contextmanager
def _mapper(workers: int) -> Iterator[Callable[..., Iterable[tuple[np.ndarray, np.ndarray, str]]]]:
    """``map``, over fresh processes if there are any: a fork of a process that runs threads may hang."""
    if workers:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            yield partial(pool.map, chunksize=4)
    else:
        yield map


def _arrays(folder: Path, settings: str, shape: tuple[int, int, int]) -> tuple[np.memmap, np.memmap]:
    stamp = folder / "settings.json"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == settings:
        return open_memmap(folder / "images.npy", "r+"), open_memmap(folder / "labels.npy", "r+")
    (folder / "captions.json").unlink(missing_ok=True)
    images = _reserved(folder / "images.npy", (*shape, 3))
    labels = _reserved(folder / "labels.npy", shape)
    atomic_write(stamp, settings.encode())
    return images, labels


def _reserved(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A new uint8 array on disk whose room is taken at once: a full disk kills a writer to a map without a word."""
    array = open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with open(path, "r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    return array


def _captions(folder: Path) -> list[str]:
    path = folder / "captions.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
