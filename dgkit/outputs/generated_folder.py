"""A generated folder as its files tell it: settings, scenes, and how many pixels of each class they hold."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dgkit.config import read_recipe
from dgkit.data import manifest
from dgkit.data.datasets import Dataset, Sample
from dgkit.data.index import build_index, default_cache
from dgkit.errors import InputError

# What a line of the manifest must hold to be a scene here; it may hold more.
_KEYS = frozenset({"index", "id", "image", "label", "source", "class", "crop", "prompt", "style", "seed"})

FILTERED = "labels_filtered"

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class GeneratedFolder:
    """``records`` are the lines of the manifest, one for each scene, in job order; ``settings`` are its config.yaml."""

    path: Path
    settings: dict[str, Any]
    records: tuple[dict[str, Any], ...]

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the pictures in pixels, None where the settings do not say."""
        size = self.settings.get("size")
        return (int(size[0]), int(size[1])) if isinstance(size, list) and len(size) == 2 else None

    @property
    def styles(self) -> dict[str, int]:
        """Number of scenes of each style, the most frequent first."""
        return _counted(str(record["style"]) for record in self.records)

    @property
    def drawn(self) -> dict[str, int]:
        """Number of scenes whose crop was drawn for each class, the most frequent first."""
        return _counted(str(record["class"]) for record in self.records if record["class"] is not None)


@dataclass(frozen=True, eq=False)
class ClassPixels:
    """Pixels of the 19 classes in each scene, int64 [N,19], and of all kinds, ignored ones included, int64 [N]."""

    classes: np.ndarray
    area: np.ndarray

    @property
    def totals(self) -> list[int]:
        return [int(count) for count in self.classes.sum(axis=0)]

    @property
    def scenes(self) -> list[int]:
        """Number of scenes that show each class."""
        return [int(count) for count in (self.classes > 0).sum(axis=0)]

    @property
    def ignored_share(self) -> float:
        area = int(self.area.sum())
        return (area - int(self.classes.sum())) / area if area else 0.0


def open_generated(path: Path | str, *, partial: bool = False) -> GeneratedFolder:
    """Read what ``dgkit generate`` wrote to ``path``; pictures are not opened.

    Raises InputError where it is no such folder, holds no scene, or (unless ``partial``) fewer than were asked for.
    """
    path = Path(path)
    if not (path / "manifest.jsonl").is_file() or not (path / "config.yaml").is_file():
        raise InputError(
            f"{path} is no folder of dgkit generate: it needs manifest.jsonl and config.yaml",
            f"dgkit generate {path} makes one",
        )
    settings = read_recipe(path / "config.yaml")
    records = sorted(
        manifest.read(path / "manifest.jsonl"), key=lambda record: (record.get("index", -1), str(record.get("id")))
    )
    for record in records:
        _check(path, record)
    wanted = None if settings.get("shard") else settings.get("count")  # a part of a run has fewer than its settings say
    if not records or (not partial and isinstance(wanted, int) and len(records) < wanted):
        raise InputError(
            f"{path} holds {len(records)} of the {settings.get('count')} scenes it was made for",
            f"dgkit generate {path} --recipe {path / 'config.yaml'} makes the rest",
        )
    return GeneratedFolder(path, settings, tuple(records))


def with_filtered_labels(folder: GeneratedFolder) -> GeneratedFolder:
    """The scenes that ``dgkit filter`` kept, with the second labels it wrote in place of the first.

    Raises InputError where the filter has not run to its end.
    """
    path = folder.path / FILTERED / "manifest.jsonl"
    if not path.is_file():
        raise InputError(
            f"{folder.path} has no complete second labels",
            f"dgkit filter {folder.path} --segmenter FILE.onnx writes them",
        )
    lines = {line.get("id"): line for line in manifest.read(path)}
    records = []
    for record in folder.records:
        line = lines.get(record["id"])
        if line is not None:
            changed = {"label": f"{FILTERED}/{Path(record['label']).name}", "label_sha256": line.get("label_sha256")}
            records.append({**record, **changed})
    if not records:
        raise InputError(f"{path} keeps none of the scenes of {folder.path}", "filter with a lower --min-agreement")
    return GeneratedFolder(folder.path, folder.settings, tuple(records))


def place(record: dict[str, Any], kind: str) -> str:
    """Where the ``image`` or ``label`` of a scene lies in an image folder, whichever label it is."""
    return f"{kind}s/{Path(record[kind]).name}"


def count_classes(folder: GeneratedFolder, workers: int = 0, progress: Progress | None = None) -> ClassPixels:
    """Count the pixels of each class in each scene's label, in the order of ``folder.records``.

    Counts are kept in the cache folder, so only new labels are read. Raises LabelError for a label that is none.
    """
    root = folder.path.resolve()
    samples = tuple(Sample(str(r["id"]), root / r["label"], root / r["image"], "train_ids") for r in folder.records)
    dataset = Dataset("dgkit", root, "all", samples)
    index = build_index(dataset, workers=workers, cache=default_cache(dataset), progress=progress)
    return ClassPixels(index.counts, index.sizes.astype(np.int64).prod(axis=1))


def _check(path: Path, record: dict[str, Any]) -> None:
    """Refuse a line that is no scene, or that names files elsewhere: what is packed comes from this folder alone."""
    name = record.get("id")
    fine = (
        record.keys() >= _KEYS
        and isinstance(name, str)
        and "/" not in name
        and record["image"] == f"images/{name}.png"
        and record["label"] == f"labels/{name}_labelTrainIds.png"
    )
    if not fine:
        raise InputError(
            f"{path / 'manifest.jsonl'}: the line of {name!r} is not that of a scene",
            f"dgkit generate {path} --recipe {path / 'config.yaml'} puts the manifest in order",
        )


def _counted(values: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
