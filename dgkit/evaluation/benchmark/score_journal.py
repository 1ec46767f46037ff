"""The scores of an evaluation so far, one line per image, from which an interrupted run resumes."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dgkit.data.index import table_digest
from dgkit.data.manifest import Manifest
from dgkit.data.pictures import reading
from dgkit.data.samples import Sample
from dgkit.errors import OutputError, shown
from dgkit.evaluation.benchmark.metric_sums import Sums, shapes_of

JOURNAL = "scores.jsonl"


class ScoreJournal:
    """``scores.jsonl`` in an output folder: first the settings, then a confusion matrix per image.

    A line is valid while image and label map keep their path, size and modification time. ``void`` holds the pixels
    that were predicted as none of the classes, by label; it is absent if there are none. ``sums`` holds those of the
    metrics that need more than the matrix.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """Open or begin the journal. Raises OutputError for scores of other settings, InputError for a damaged file."""
        self._manifest = Manifest(folder / JOURNAL)
        self._manifest.repair()
        settings = json.loads(json.dumps(settings))
        lines = self._manifest.read()
        if not lines:
            self._manifest.append({"settings": settings})
        elif (found := lines[0].get("settings")) != settings:
            raise OutputError(
                f"{folder} holds scores of other settings: {_differing(found, settings)}",
                "choose another --out, or remove this folder",
            )
        self._lines = {(str(line.get("set")), str(line.get("id"))): line for line in lines[1:]}

    def matrix(self, dataset: str, sample: Sample) -> np.ndarray | None:
        """Return the matrix, int64 [K,K+1], of an image, or None if it has to be scored."""
        line, size = self._lines.get((dataset, sample.id)), sample.taxonomy.size
        if line is None or line.get("files") != _stamp(sample):
            return None
        cells, pixels = _counts(line.get("cells")), _counts(line.get("pixels"))
        void = _counts(line.get("void", [0] * size))
        if cells is None or pixels is None or void is None or len(cells) != len(pixels) or len(void) != size:
            return None  # an edited line: the image is scored again
        if len(set(cells)) != len(cells) or max(cells, default=0) >= size**2:
            return None
        square = np.zeros(size**2, np.int64)
        square[cells] = pixels
        return np.column_stack([square.reshape(size, size), np.array(void, np.int64)])

    def sums(self, dataset: str, sample: Sample, metrics: Iterable[str]) -> Sums | None:
        """Return the sums of an image, whose matrix is valid, for ``metrics``, or None if it has to be scored."""
        stored = self._lines[dataset, sample.id].get("sums", {})
        shapes = shapes_of(sample.taxonomy.size)
        found = {name: _array(stored.get(name) if isinstance(stored, dict) else None, shapes[name]) for name in metrics}
        valid = {name: array for name, array in found.items() if array is not None}
        return valid if len(valid) == len(found) else None

    def add(self, dataset: str, sample: Sample, matrix: np.ndarray, sums: Sums | None = None) -> None:
        """Write the matrix and the sums of an image. Raises OutputError."""
        square, void = matrix[:, :-1].ravel(), matrix[:, -1]
        cells = np.flatnonzero(square)
        line = {
            "set": dataset,
            "id": sample.id,
            "files": _stamp(sample),
            "cells": cells.tolist(),
            "pixels": square[cells].tolist(),
            **({"void": void.tolist()} if void.any() else {}),
            **({"sums": {name: array.tolist() for name, array in sums.items()}} if sums else {}),
        }
        self._manifest.append(line)
        self._lines[dataset, sample.id] = line


def _counts(values: Any) -> list[int] | None:
    """Return ``values`` if they are a list of numbers of pixels, else None."""
    valid = isinstance(values, list) and all(type(value) is int and 0 <= value < 2**40 for value in values)
    return values if valid else None


def _array(values: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return stored sums as an array, or None if they are not numbers of ``shape``."""
    try:
        found = np.asarray(values)
    except ValueError:  # lists of different lengths
        return None
    valid = found.shape == shape and found.dtype.kind in "if" and np.isfinite(found).all() and (found >= 0).all()
    return found if valid else None


def _stamp(sample: Sample) -> list[Any]:
    found: list[Any] = []
    for path in (sample.image, sample.label):
        status = Path(str(path)).stat()
        found += [str(path), status.st_size, status.st_mtime_ns]
    if "@" in sample.encoding:  # a table in a file, which may change
        found.append(table_digest(sample.encoding, sample.taxonomy))
    how = reading(str(sample.image))
    return [*found, how] if how else found  # as before for photographs that are read as stored


def _differing(found: Any, wanted: dict[str, Any]) -> str:
    found = found if isinstance(found, dict) else {}
    texts = []
    for name in sorted({*found, *wanted}):
        old, new = found.get(name), wanted.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            texts += [f"{name}: {_differing(old, new)}"] if old != new else []
        elif old != new:
            texts.append(f"{name} was {shown(old)}, is {shown(new)}")
    return "; ".join(texts)
