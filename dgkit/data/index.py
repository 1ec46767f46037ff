"""The class index of a data set: pixels of each class in each label map, counted once and cached."""

import hashlib
import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from dgkit.data.labelmap import find_encoding, resize_label
from dgkit.data.samples import Dataset, Sample
from dgkit.errors import DgkitError, LabelError, OutputError, UsageError
from dgkit.files import atomic_write, cache_folder, read_file
from dgkit.processes import start_pool_worker
from dgkit.progress import Advance
from dgkit.taxonomies import CITYSCAPES19, Taxonomy

MAX_SCALE = 16.0  # of label maps
MAX_BYTES = 1 << 30  # of a cache file; a million label maps take 100 MB
_CACHE_VERSION = 1
_MAX_LISTED = 3  # unreadable files named in one error

_Row = tuple[list[int], tuple[int, int], str]  # pixels per class, (height, width), digest


@dataclass(frozen=True, eq=False)
class ClassIndex:
    """Class counts of a data set whose label maps were resized by ``scale`` first.

    ``counts`` is int64 [N, K], the pixels of each of the K classes (by default 19) without ignore; ``sizes`` is int32
    [N, 2], (height, width) after resizing; ``digests`` are the SHA-256 of the N label files. Arrays are read-only.
    """

    dataset: Dataset
    counts: np.ndarray
    sizes: np.ndarray
    scale: float
    digests: tuple[str, ...]

    def read(self, sample_index: int) -> np.ndarray:
        """Read the train ids of one sample, resized by ``scale``: uint8 [H, W], read-only. Raises LabelError."""
        return read_scaled(self.dataset.samples[sample_index], self.scale)

    @property
    def digest(self) -> str:
        """SHA-256 of ids, files, encodings and scale: equal if and only if the same crops are sampled."""
        lines = [f"{self.scale!r}"]
        for sample, digest in zip(self.dataset.samples, self.digests, strict=True):
            lines.append(f"{sample.id} {table_digest(sample.encoding, sample.taxonomy)} {digest}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_scaled(sample: Sample, scale: float = 1.0) -> np.ndarray:
    """Read the train ids of ``sample``, both sides scaled by ``scale`` and rounded: uint8 [H, W], read-only."""
    label = sample.train_ids()
    if scale == 1.0:
        return label
    height, width = (max(1, round(side * scale)) for side in label.shape)
    return resize_label(label, height, width)


def build_index(
    dataset: Dataset,
    scale: float = 1.0,
    workers: int = 0,
    cache: Path | None = None,
    progress: Advance | None = None,
) -> ClassIndex:
    """Count the pixels of each class in each label map of ``dataset``.

    ``workers`` processes share the reading; 0 reads in this process. ``cache`` is a file of earlier counts: entries
    whose label file has the same size, modification time, encoding and scale are reused, the others are counted and the
    cache is rewritten. A damaged cache is ignored. ``progress`` is called with (maps done, all maps).

    Raises LabelError naming the label maps that cannot be read, OutputError if the cache cannot be written, UsageError
    for a scale or number of workers that is not allowed.
    """
    if not 0 < scale <= MAX_SCALE:
        raise UsageError(f"label scale {scale}; allowed: above 0, at most {MAX_SCALE:g}", "use for example 0.5")
    if workers < 0:
        raise UsageError(f"{workers} workers; allowed: 0 or more", "use for example --workers 4")
    keys = [_key(sample, scale) for sample in dataset.samples]
    known = _load_cache(cache, dataset.taxonomy.size) if cache is not None else {}
    rows: list[_Row | None] = [known.get(key) for key in keys]
    missing = [i for i, row in enumerate(rows) if row is None]
    total = len(rows)
    if progress is not None:
        progress(total - len(missing), total)
    failures: list[LabelError] = []
    results = _count_all([dataset.samples[i] for i in missing], scale, workers)
    for done, (i, result) in enumerate(zip(missing, results, strict=True), total - len(missing) + 1):
        if isinstance(result, LabelError):
            failures.append(result)
        else:
            rows[i] = result
        if progress is not None:
            progress(done, total)
    if failures:
        raise _summary(failures, total)
    complete = [row for row in rows if row is not None]
    if cache is not None and missing:
        _save_cache(cache, dict(zip(keys, complete, strict=True)))
    return _assemble(dataset, complete, scale)


def default_cache(dataset: Dataset, scale: float = 1.0) -> Path | None:
    """Return the cache file of a data set in the user's cache folder, or None if that folder cannot be written."""
    identity = f"{dataset.name}\0{dataset.split}\0{dataset.root.resolve()}\0{scale!r}"
    identity += "" if dataset.taxonomy.is_default else f"\0{dataset.taxonomy.text}"
    folder = cache_folder() / "index"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK):
        return None
    digest = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()
    return folder / f"{dataset.name}-{digest[:16]}.npz"


def _count(sample: Sample, scale: float) -> _Row | LabelError:
    try:
        label = read_scaled(sample, scale)
        digest = sample.sha256()
    except LabelError as error:
        return error
    classes = sample.taxonomy.size
    counts = np.bincount(label.ravel(), minlength=classes)[:classes]
    return counts.tolist(), (label.shape[0], label.shape[1]), digest


def _count_task(task: tuple[Sample, float]) -> _Row | LabelError:
    return _count(*task)


def _count_all(samples: list[Sample], scale: float, workers: int) -> Iterator[_Row | LabelError]:
    if workers == 0 or len(samples) < 2:
        yield from (_count(sample, scale) for sample in samples)
        return
    # Fresh processes: a fork of a process that runs threads (torch, progress bars) may hang.
    pool = ProcessPoolExecutor(min(workers, len(samples)), get_context("spawn"), initializer=start_pool_worker)
    try:
        chunk = max(1, min(32, len(samples) // (4 * workers)))
        yield from pool.map(_count_task, [(sample, scale) for sample in samples], chunksize=chunk)
    except BrokenProcessPool as error:
        raise DgkitError(
            "a process that reads label maps ended unexpectedly, possibly out of memory",
            "use --workers 0; a script that uses workers needs 'if __name__ == \"__main__\":' around its calls",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _summary(failures: list[LabelError], total: int) -> LabelError:
    first = failures[0]
    if len(failures) == 1:
        return first
    others = [failure.message.partition(": ")[0] for failure in failures[1:_MAX_LISTED]]
    more = ", ..." if len(failures) > _MAX_LISTED else ""
    text = (
        f"{first.message} ({len(failures)} of {total} label maps cannot be used, including {', '.join(others)}{more})"
    )
    return LabelError(text, first.hint)


def _assemble(dataset: Dataset, rows: list[_Row], scale: float) -> ClassIndex:
    counts = np.array([row[0] for row in rows], dtype=np.int64).reshape(-1, dataset.taxonomy.size)
    sizes = np.array([row[1] for row in rows], dtype=np.int32).reshape(-1, 2)
    counts.setflags(write=False)
    sizes.setflags(write=False)
    return ClassIndex(dataset, counts, sizes, scale, tuple(row[2] for row in rows))


def _key(sample: Sample, scale: float) -> str:
    table = table_digest(sample.encoding, sample.taxonomy)
    try:
        status = sample.label.stat()
    except OSError:
        return f"{sample.label} unreadable"
    return f"{sample.label} {status.st_size} {status.st_mtime_ns} {table} {scale!r}"


def table_digest(encoding: str, taxonomy: Taxonomy = CITYSCAPES19) -> str:
    """Return a digest of the table, not of its name: the table of Mapillary v2.0 comes from a file.

    It covers the classes, too, unless they are the default ones.
    """
    system = find_encoding(encoding, taxonomy)
    colours = b"" if system.colours is None else repr(sorted(system.colours.items())).encode()
    classes = b"" if taxonomy.is_default else taxonomy.text.encode()
    return hashlib.sha256(system.table.tobytes() + colours + classes).hexdigest()[:16]


def _load_cache(path: Path, classes: int) -> dict[str, _Row]:
    """Return the rows by key; empty if the file is absent, damaged or of another version."""
    try:
        with np.load(io.BytesIO(read_file(path, MAX_BYTES)), allow_pickle=False) as archive:
            header = json.loads(archive["header"].tobytes())
            counts, sizes = archive["counts"], archive["sizes"]
        if header["version"] != _CACHE_VERSION or counts.shape != (len(sizes), classes):
            return {}
        rows = zip(counts.tolist(), sizes.tolist(), header["digests"], strict=True)
        return {
            key: (row, (size[0], size[1]), digest)
            for key, (row, size, digest) in zip(header["keys"], rows, strict=True)
        }
    except Exception:  # a damaged archive raises many errors (zipfile, zlib, json, KeyError)
        return {}


def _save_cache(path: Path, rows: dict[str, _Row]) -> None:
    digests = [row[2] for row in rows.values()]
    header = json.dumps({"version": _CACHE_VERSION, "keys": list(rows), "digests": digests}).encode()
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        header=np.frombuffer(header, dtype=np.uint8),
        counts=np.array([row[0] for row in rows.values()], dtype=np.int64),
        sizes=np.array([row[1] for row in rows.values()], dtype=np.int32),
    )
    try:
        atomic_write(path, buffer.getvalue())
    except OutputError as error:
        raise OutputError(error.message, "give another file with --cache, or omit it") from error
