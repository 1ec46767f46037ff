"""Rendered scenes cached on disk as plain arrays, so that a training step renders nothing.

A cache folder holds ``images.npy`` uint8 [N,H,W,3] RGB, ``labels.npy`` uint8 [N,H,W] train ids and 255,
``settings.json``, and ``captions.json``, whose length is the number of scenes rendered so far: an interrupted rendering
resumes there. ``digests.json`` is written last; from then on every training checks the files against it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.lib.format import open_memmap
from pydantic import Field

from dgkit.config import Config
from dgkit.errors import InputError
from dgkit.files import atomic_write, output_error, parse_json, read_file
from dgkit.labels import NUM_CLASSES
from dgkit.locks import locked
from dgkit.processes import start_pool_worker
from dgkit.progress import Advance
from dgkit.training.loop.integrity import find_result, record_result
from dgkit.world import render

CHUNK = 64
_FILES = ("images.npy", "labels.npy", "captions.json", "settings.json")
_DIGESTS = "digests.json"
Zoom1 = Annotated[int, Field(ge=1, description="scenes at zoom 1")]
Zoom2 = Annotated[int, Field(ge=0, description="scenes at zoom 2")]


@dataclass(frozen=True)
class SceneSet:
    """Scenes 0 .. ``count`` - 1 of a role and seed, ``height`` x 2 ``height`` pixels each."""

    role: str
    count: int
    seed: int
    height: int

    @property
    def name(self) -> str:
        """Name that tells scenes of different sets apart; part of the keys of cached latents."""
        return f"city {self.role}, seed {self.seed}, {self.height} pixels high"


class SceneCounts(Config):
    """Number of scenes of one role at each zoom.

    Zoom 1 is a scene of ``height`` x 2 ``height`` pixels. Zoom 2 renders at twice that size, so that a crop of the
    model's size shows what one tile of the sampler's second pass shows.
    """

    zoom1: Zoom1 = 200
    zoom2: Zoom2 = 40

    def sets(self, role: str, seed: int, height: int) -> list[SceneSet]:
        """Return the scenes at zoom 1 and, if there are any, at zoom 2."""
        counts = {1: self.zoom1, 2: self.zoom2}
        return [SceneSet(role, count, seed + zoom - 1, height * zoom) for zoom, count in counts.items() if count]


@dataclass(frozen=True, eq=False)
class SceneCache:
    """N scenes of one size: ``images`` uint8 [N,H,W,3], ``labels`` uint8 [N,H,W], ``captions`` N strings.

    ``folder`` is where the arrays are memory-mapped from, ``None`` for arrays in memory; ``name`` tells caches apart.
    """

    images: np.ndarray
    labels: np.ndarray
    captions: tuple[str, ...]
    folder: Path | None = None
    name: str = "scenes"

    def __len__(self) -> int:
        return len(self.captions)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.folder is not None:  # a worker process maps the files itself instead of receiving gigabytes
            return open_scenes, (self.folder,)
        return SceneCache, (self.images, self.labels, self.captions, None, self.name)

    def key(self, index: int) -> str:
        """Return the name of a scene in error messages and caches of latents."""
        return f"{self.name}, scene {index}"

    def class_counts(self) -> np.ndarray:
        """Return the number of pixels of each class in each scene, int64 [N,19]."""
        return np.stack([np.bincount(label.ravel(), minlength=256)[:NUM_CLASSES] for label in self.labels])


def render_scenes(folder: Path, scenes: SceneSet, workers: int, progress: Advance | None = None) -> SceneCache:
    """Render ``scenes`` into ``folder``, or those that are missing there.

    ``workers`` processes render; 0 renders in this one. Several trainings may call this for one folder at once: one
    renders, the others wait. ``progress`` is called with (scenes done, total).

    Raises :class:`InputError` for finished scenes that are damaged, and :class:`OutputError` if the folder
    cannot be written or has no space for all scenes.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            _render_missing(folder, scenes, workers, progress)
    except OSError as error:
        raise output_error(folder, error) from error
    return open_scenes(folder)


def open_scenes(folder: Path) -> SceneCache:
    """Open the scenes of a finished cache folder, memory-mapped read-only."""
    images = np.load(folder / "images.npy", mmap_mode="r")
    labels = np.load(folder / "labels.npy", mmap_mode="r")
    scenes = SceneSet(**json.loads((folder / "settings.json").read_text(encoding="utf-8")))
    return SceneCache(images, labels, tuple(_captions(folder)), folder, scenes.name)


def _render_missing(folder: Path, scenes: SceneSet, workers: int, progress: Advance | None) -> None:
    if _is_complete(folder, scenes):
        return
    images, labels = _arrays(folder, scenes)
    captions = _captions(folder)
    draw = partial(_render, scenes)
    with _mapper(workers if len(captions) < scenes.count else 0) as mapped:
        while len(captions) < scenes.count:
            first = len(captions)
            last = min(scenes.count, first + CHUNK * max(1, workers // 2))
            for i, (image, label, text) in enumerate(mapped(draw, range(first, last)), first):
                images[i], labels[i] = image, label
                captions.append(text)
            images.flush()
            labels.flush()
            atomic_write(folder / "captions.json", json.dumps(captions).encode())
            if progress:
                progress(last, scenes.count)
    record_result(folder / _DIGESTS, folder, [folder / name for name in _FILES])


def _is_complete(folder: Path, scenes: SceneSet) -> bool:
    """Return whether ``folder`` holds all of ``scenes``. Raises InputError if their files are damaged."""
    if not _has_settings(folder, scenes):
        return False
    if damage := find_result(folder / _DIGESTS, folder):
        raise InputError(
            f"the rendered scenes in {folder} are damaged: {damage}", f"delete {folder} to render them again"
        )
    return (folder / _DIGESTS).exists()


def _has_settings(folder: Path, scenes: SceneSet) -> bool:
    path = folder / "settings.json"
    return path.exists() and path.read_bytes() == json.dumps(asdict(scenes)).encode()


def _render(scenes: SceneSet, index: int) -> tuple[np.ndarray, np.ndarray, str]:
    scene = render(scenes.role, scenes.seed, index, height=scenes.height, width=2 * scenes.height)
    return scene.image, scene.label, scene.caption


@contextmanager
def _mapper(workers: int) -> Iterator[Callable[..., Iterable[tuple[np.ndarray, np.ndarray, str]]]]:
    """Yield ``map``, over new processes if there are workers: forking a process with threads may deadlock."""
    if workers:
        with ProcessPoolExecutor(workers, get_context("spawn"), initializer=start_pool_worker) as pool:
            yield partial(pool.map, chunksize=4)
    else:
        yield map


def _arrays(folder: Path, scenes: SceneSet) -> tuple[np.memmap, np.memmap]:
    """Open the arrays for writing; those of other settings, and damaged ones, are replaced."""
    shape = (scenes.count, scenes.height, 2 * scenes.height)
    if _has_settings(folder, scenes):
        try:
            images, labels = open_memmap(folder / "images.npy", "r+"), open_memmap(folder / "labels.npy", "r+")
            if images.shape == (*shape, 3) and labels.shape == shape and images.dtype == labels.dtype == np.uint8:
                return images, labels
        except (FileNotFoundError, ValueError, EOFError):
            pass
    for name in ("captions.json", _DIGESTS):
        (folder / name).unlink(missing_ok=True)
    images = _allocated(folder / "images.npy", (*shape, 3))
    labels = _allocated(folder / "labels.npy", shape)
    atomic_write(folder / "settings.json", json.dumps(asdict(scenes)).encode())
    return images, labels


def _allocated(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """Create a uint8 array with its disk space reserved: writing to a map on a full disk kills the process silently."""
    array = open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
    return array


def _captions(folder: Path) -> list[str]:
    """Return the captions so far; none, so that all scenes are rendered again, if the file is damaged."""
    path = folder / "captions.json"
    try:
        captions = parse_json(read_file(path))
    except (FileNotFoundError, ValueError):
        return []
    valid = isinstance(captions, list) and all(isinstance(caption, str) for caption in captions)
    return captions if valid else []
