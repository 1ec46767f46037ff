"""Label maps with their photographs, and how they are found below a folder."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dgkit.data.labelmap import encode, label_size, read_ids
from dgkit.data.layouts import ALL, SPLIT_FOLDERS, Layout, Tree
from dgkit.data.listing import find_stems, printable, same_name, split_ending, walk
from dgkit.taxonomies import CITYSCAPES19, Taxonomy


@dataclass(frozen=True)
class Sample:
    """One label map and its photograph.

    ``image`` is None if the data set or the download has no photograph. ``encoding`` is the id system of the label file
    (see :func:`~dgkit.data.labelmap.find_encoding`) for the classes of ``taxonomy``. ``condition`` is for example
    "fog", or empty.
    """

    id: str
    label: Path
    image: Path | None
    encoding: str
    condition: str = ""
    taxonomy: Taxonomy = CITYSCAPES19

    def ids(self) -> np.ndarray:
        """Return the ids of the label map as they are stored, integer [H, W]. Raises LabelError."""
        return read_ids(self.label, self.encoding, self.taxonomy)

    def train_ids(self) -> np.ndarray:
        """Return the train ids, uint8 [H, W] of 0..18 or 255, read-only. Raises LabelError."""
        return encode(self.ids(), self.encoding, self.label, self.taxonomy)

    def size(self) -> tuple[int, int]:
        """Return (height, width) of the label map without decoding it. Raises LabelError."""
        return label_size(self.label)

    def sha256(self) -> str:
        """Return the SHA-256 of the label file."""
        return hashlib.sha256(self.label.read_bytes()).hexdigest()


@dataclass(frozen=True)
class ArraySample(Sample):
    """A label map in memory, ``array`` integer [H, W] of ids in ``encoding``; ``label`` is its name in errors."""

    array: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.uint8), repr=False, compare=False)

    def ids(self) -> np.ndarray:
        """Return the array."""
        return self.array

    def size(self) -> tuple[int, int]:
        """Return (height, width)."""
        return self.array.shape[0], self.array.shape[1]

    def sha256(self) -> str:
        """Return the SHA-256 of the size and the train ids, equal for arrays of any integer type."""
        content = np.ascontiguousarray(self.train_ids())
        return hashlib.sha256(f"{content.shape}".encode() + content.tobytes()).hexdigest()


@dataclass(frozen=True)
class Dataset:
    """Samples of one split ("all" for a data set without splits), at least one, ordered by path, with unique ids."""

    name: str
    root: Path
    split: str
    samples: tuple[Sample, ...]

    @property
    def taxonomy(self) -> Taxonomy:
        """Classes of the label maps."""
        return self.samples[0].taxonomy


def tree_samples(
    root: Path,
    tree: Tree,
    layout: Layout,
    split: str,
    taxonomy: Taxonomy = CITYSCAPES19,
    numbers: str = "train_ids",
) -> Iterator[Sample]:
    """Yield the samples of a tree in the order of their paths, with unique ids; ``numbers`` replaces train ids."""
    found: list[tuple[str, str, Sample]] = []
    seen: set[tuple[int, int]] = set()
    photographs: dict[Path, dict[str, Path]] = {}
    for condition in tree.conditions:
        for folder_name in _split_folders(tree, split):
            fill = {"split": folder_name, "condition": condition}
            labels = root / tree.labels.format(**fill)
            images = root / tree.images.format(**fill) if tree.images else None
            for sub, stem, file, encoding in _label_files(labels, tree.suffixes, seen):
                if tree.config:
                    encoding = f"{encoding}@{root / tree.config}"
                encoding = numbers if encoding == "train_ids" else encoding
                image = None
                if images:
                    if images / sub not in photographs:
                        photographs[images / sub] = find_stems(images / sub, tree.image_suffixes)
                    image = photographs[images / sub].get(same_name(stem))
                path = labels / sub / file
                name = "_".join(part for part in (condition, *Path(sub).parts, stem) if part)
                sample = Sample("", path, image, encoding, condition or layout.condition, taxonomy)
                found.append((stem, name, sample))
    return with_ids(found)


def with_ids(found: list[tuple[str, str, Sample]]) -> Iterator[Sample]:
    """Yield the samples of triples (stem, path below the label folder joined by "_", sample) with unique ids.

    An id is the stem if no other file has it, else the path. Ids are :func:`~dgkit.data.listing.printable`, because
    they become part of file names and texts.
    """
    stems = Counter(stem for stem, _, _ in found)
    taken: set[str] = set()
    for stem, name, sample in found:
        unique = chosen = printable(stem if stems[stem] == 1 else name)
        number = 1
        while unique in taken:
            number += 1
            unique = f"{chosen}_{number}"
        taken.add(unique)
        yield replace(sample, id=unique)


def _split_folders(tree: Tree, split: str) -> tuple[str, ...]:
    """Return the folder names for ``{split}``; one empty name for a tree without splits if all samples are wanted."""
    if "{split}" not in tree.labels:
        return ("",) if split == ALL else ()
    return tuple(name for key, names in SPLIT_FOLDERS.items() if split in (key, ALL) for name in names)


def _label_files(
    folder: Path, suffixes: tuple[tuple[str, str | None], ...], seen: set[tuple[int, int]]
) -> Iterable[tuple[str, str, str, str]]:
    """Yield (subfolder, stem, file, encoding) of the label files below ``folder``, sorted by path, one per stem."""
    endings = [suffix for suffix, _ in suffixes]
    best: dict[tuple[str, str], tuple[int, bool, str]] = {}
    for sub, names in walk(folder, seen):
        for name in names:
            split = split_ending(name, endings)
            if split is None or suffixes[split[1]][1] is None:
                continue
            stem, rank = split
            # Of a.png and a.PNG the first one counts, as on systems that do not distinguish them.
            order = (rank, not name.endswith(endings[rank]), name)
            best[sub, stem] = min(order, best.get((sub, stem), order))
    for (sub, stem), (rank, _, name) in sorted(best.items()):
        encoding = suffixes[rank][1]
        assert encoding is not None
        yield sub, stem, name, encoding
