"""The data sets of an evaluation: finding them, what is wrong with their files, and reading their pairs."""

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dgkit.data.datasets import Dataset, Sample, open_dataset
from dgkit.data.labelmap import find_encoding, label_size, read_label
from dgkit.data.layouts import ALL, LAYOUTS
from dgkit.data.pictures import read_picture
from dgkit.errors import InputError, LabelError, UsageError
from dgkit.evaluation.benchmark.protocols import Protocol, fitted_size

ALIASES = {"bdd": "bdd100k", "darkzurich": "dark_zurich"}
NO_IMAGE, NO_LABEL, SIZES, IDS, DAMAGED = (
    "label map without photograph",
    "photograph without label map",
    "sizes differ",
    "unknown ids",
    "damaged file",
)
_SHOWN = 3


@dataclass(frozen=True)
class Problem:
    """A file that cannot be scored; ``kind`` is one of the constants above."""

    dataset: str
    kind: str
    path: str
    message: str

    def to_json(self) -> dict[str, str]:
        return {"set": self.dataset, "kind": self.kind, "path": self.path, "message": self.message}


class BadSample(Exception):
    """A sample turned out to be bad while it was read."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass(frozen=True)
class Item:
    """One sample, ready for a network: ``image`` uint8 [h,w,3] RGB at the protocol's scale, ``label`` uint8 [H,W]."""

    dataset: str
    sample: Sample
    image: np.ndarray
    label: np.ndarray


def find_sets(given: Sequence[str], split: str) -> list[Dataset]:
    """The data sets of ``NAME=DIR`` texts, in order. ``split`` is for those that have splits.

    Raises UsageError for a text that is no NAME=DIR, an unknown name, or one name twice; InputError without label maps.
    """
    found: list[Dataset] = []
    for text in given:
        name, _, folder = text.partition("=")
        name = ALIASES.get(name, name)
        if name not in LAYOUTS or not folder:
            allowed = ", ".join((*LAYOUTS, *ALIASES))
            raise UsageError(f"--on {text!r} is not NAME=DIR; names: {allowed}", "use --on cityscapes=DIR")
        if name in [one.name for one in found]:
            raise UsageError(f"--on {name} is given twice", "evaluate the second folder with another --out")
        divided = any("{split}" in tree.labels for tree in LAYOUTS[name].trees)
        found.append(open_dataset(name, folder, split if divided and LAYOUTS[name].default_split != ALL else None))
    return found


def survey(dataset: Dataset, workers: int) -> tuple[list[Sample], list[Problem]]:
    """Samples that look good, and what is wrong with the others, from names and headers alone."""
    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(lambda sample: _look(dataset.name, sample), dataset.samples))
    good = [sample for sample, problem in zip(dataset.samples, found, strict=True) if problem is None]
    return good, [*(problem for problem in found if problem is not None), *_unlabelled(dataset)]


def read_item(dataset: str, sample: Sample, protocol: Protocol) -> Item:
    """Read, halve where the protocol says so, and resize (bilinear, as mmcv does) the picture; labels stay as they are.

    Raises BadSample.
    """
    import cv2

    image, label = read_sample(dataset, sample)
    if dataset in protocol.halved:
        size = (max(1, label.shape[1] // 2), max(1, label.shape[0] // 2))
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
        label = np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST))
    height, width = fitted_size(label.shape[0], label.shape[1], protocol.scale_of(dataset))
    if (height, width) != image.shape[:2]:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    image = np.require(image, requirements=("C", "W"))  # Pillow's arrays are read-only, and torch warns of those
    return Item(dataset, sample, image, label)


def read_sample(dataset: str, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """(photograph uint8 [H,W,3] RGB, train ids uint8 [H,W]). Raises BadSample."""
    try:
        label = read_label(sample.label, sample.encoding)
    except LabelError as error:
        kind = IDS if "unknown ids" in error.message else DAMAGED
        raise BadSample(Problem(dataset, kind, str(sample.label), error.message)) from error
    try:
        image = read_picture(Path(str(sample.image)))
    except (InputError, Image.DecompressionBombError) as error:
        raise BadSample(Problem(dataset, DAMAGED, str(sample.image), str(error))) from error
    if image.shape[:2] != label.shape:
        raise BadSample(_sizes(dataset, sample, label.shape, image.shape[:2]))
    return image, label


def refuse(problems: Sequence[Problem]) -> None:
    """Raise InputError with the count and the first files of each kind; nothing where there are none."""
    if not problems:
        return
    parts = []
    for (dataset, kind), number in counts(problems).items():
        files = [problem.path for problem in problems if (problem.dataset, problem.kind) == (dataset, kind)]
        more = f" and {number - _SHOWN} more" if number > _SHOWN else ""
        parts.append(f"{dataset}: {number} of kind '{kind}' ({', '.join(files[:_SHOWN])}{more})")
    raise InputError(
        f"{len(problems)} bad files; {'; '.join(parts)}", "mend them, or leave them out and say so with --skip-bad"
    )


def counts(problems: Iterable[Problem]) -> dict[tuple[str, str], int]:
    """Number of problems by (data set, kind)."""
    return dict(sorted(Counter((problem.dataset, problem.kind) for problem in problems).items()))


def label_systems(dataset: Dataset) -> list[str]:
    """Descriptions of the id systems that the label maps were read with, such as the mapping of Mapillary Vistas."""
    return sorted({find_encoding(name).description for name in {sample.encoding for sample in dataset.samples}})


def _look(dataset: str, sample: Sample) -> Problem | None:
    if sample.image is None:
        return Problem(dataset, NO_IMAGE, str(sample.label), f"{sample.label}: its photograph was not found")
    try:
        size = label_size(sample.label)
    except LabelError as error:
        return Problem(dataset, DAMAGED, str(sample.label), error.message)
    try:
        with Image.open(sample.image) as picture:
            width, height = picture.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return Problem(dataset, DAMAGED, str(sample.image), f"{sample.image} cannot be read as a picture: {error}")
    return None if (height, width) == size else _sizes(dataset, sample, size, (height, width))


def _sizes(dataset: str, sample: Sample, label: tuple[int, ...], image: tuple[int, ...]) -> Problem:
    message = f"{sample.label} is {label[1]}x{label[0]} but {sample.image} is {image[1]}x{image[0]}"
    return Problem(dataset, SIZES, str(sample.label), message)


def _unlabelled(dataset: Dataset) -> list[Problem]:
    """Photographs in the folders of those that have label maps, with the same ending, that have none."""
    used = {sample.image for sample in dataset.samples if sample.image is not None}
    endings = {_ending(path) for path in used}
    found = sorted(
        path for folder in {path.parent for path in used} for path in folder.iterdir()
        if path not in used and _ending(path) in endings and not path.name.startswith(".")
    )  # fmt: skip
    return [Problem(dataset.name, NO_LABEL, str(path), f"{path}: its label map was not found") for path in found]


def _ending(path: Path) -> str:
    """What the photographs of a set end in: a marked name such as ``_rgb_anon.png``, else the type alone."""
    marked = next((mark for mark in ("_leftImg8bit", "_rgb_anon") if path.stem.endswith(mark)), "")
    return f"{marked}{path.suffix.lower()}"
