"""Rendered scenes on disk as plain arrays, so that a training step costs no drawing.

A cache folder holds ``images.npy`` uint8 [N,H,W,3] RGB, ``labels.npy`` uint8 [N,H,W] train ids and 255, and
``captions.json``. ``done`` counts the scenes rendered so far, so an interrupted rendering goes on.
"""

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from dgkit.files import atomic_write
from dgkit.world import render

CHUNK = 64


@dataclass(frozen=True)
class SceneCache:
    """N scenes of one role and size. ``images`` uint8 [N,H,W,3], ``labels`` uint8 [N,H,W], ``captions`` N strings."""

    images: np.ndarray
    labels: np.ndarray
    captions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.captions)


def _render(index: int, role: str, seed: int, height: int) -> tuple[np.ndarray, np.ndarray, str]:
    scene = render(role, seed, index, height=height, width=2 * height)
    return scene.image, scene.label, scene.caption


def render_scenes(
    folder: Path,
    role: str,
    count: int,
    seed: int,
    height: int,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> SceneCache:
    """Render ``count`` scenes of ``height`` x 2 ``height`` pixels into ``folder``, or finish what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.dumps({"role": role, "count": count, "seed": seed, "height": height})
    images, labels = _arrays(folder, settings, (count, height, 2 * height))
    captions = _captions(folder)
    draw = partial(_render, role=role, seed=seed, height=height)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        while len(captions) < count:
            first = len(captions)
            last = min(count, first + CHUNK)
            for i, (image, label, caption) in enumerate(pool.map(draw, range(first, last), chunksize=4), first):
                images[i], labels[i] = image, label
                captions.append(caption)
            images.flush()
            labels.flush()
            atomic_write(folder / "captions.json", json.dumps(captions).encode())
            if progress:
                progress(last, count)
    return SceneCache(images, labels, tuple(captions))


def _arrays(folder: Path, settings: str, shape: tuple[int, int, int]) -> tuple[np.memmap, np.memmap]:
    stamp = folder / "settings.json"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == settings:
        return open_memmap(folder / "images.npy", "r+"), open_memmap(folder / "labels.npy", "r+")
    (folder / "captions.json").unlink(missing_ok=True)
    images = open_memmap(folder / "images.npy", "w+", np.uint8, (*shape, 3))
    labels = open_memmap(folder / "labels.npy", "w+", np.uint8, shape)
    atomic_write(stamp, settings.encode())
    return images, labels


def _captions(folder: Path) -> list[str]:
    path = folder / "captions.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
