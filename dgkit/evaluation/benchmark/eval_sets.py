"""Find the data sets of an evaluation, check their files, and read their images and label maps."""

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dgkit.data.datasets import open_dataset, splits_in
from dgkit.data.labelmap import find_encoding, label_size, read_label
from dgkit.data.layouts import ALIASES, ALL, LAYOUTS, PAIRS
from dgkit.data.listing import same_name, split_ending, walk
from dgkit.data.pairs import describe_mismatch
from dgkit.data.pictures import picture_size, read_picture
from dgkit.data.samples import Dataset, Sample
from dgkit.errors import InputError, LabelError, UsageError
from dgkit.evaluation.benchmark.protocols import Protocol, fitted_size
from dgkit.files import local_path
from dgkit.progress import Notify
from dgkit.taxonomies import CITYSCAPES19, Taxonomy

NO_IMAGE, NO_LABEL, SIZES, IDS, DAMAGED = (
    "label map without photograph",
    "photograph without label map",
    "sizes differ",
    "unknown ids",
    "damaged file",
)
_SHOWN = 3


@dataclass(frozen=True)
class BadFile:
    """A file that cannot be scored; ``kind`` is one of the constants above."""

    dataset: str
    kind: str
    path: str
    message: str

    def to_json(self) -> dict[str, str]:
        """Return the entry in ``report.json``."""
        return {"set": self.dataset, "kind": self.kind, "path": self.path, "message": self.message}


class BadSample(Exception):
    """A sample cannot be scored, for the reason in ``bad_file``."""

    def __init__(self, bad_file: BadFile) -> None:
        super().__init__(bad_file.message)
        self.bad_file = bad_file


@dataclass(frozen=True)
class EvalSample:
    """A sample ready for the network.

    ``image``: uint8 [h,w,3] RGB at the scale of the protocol; ``label``: uint8 [H,W] train ids at its own size.
    """

    dataset: str
    files: Sample
    image: np.ndarray
    label: np.ndarray


def find_sets(
    given: Sequence[str],
    split: str,
    only: bool = False,
    notify: Notify | None = None,
    taxonomy: Taxonomy = CITYSCAPES19,
) -> list[Dataset]:
    """Return the data sets of ``NAME=DIR`` texts, in order; ``split`` applies to those that have splits.

    Their label maps are read as classes of ``taxonomy``.

    With ``only``, a set that lacks ``split`` is opened with the only split that it has, and ``notify`` gets a line.
    Raises UsageError for a text that is not NAME=DIR, an unknown name or a repeated name; InputError if there are no
    label maps.
    """
    found: list[Dataset] = []
    for text in given:
        name, _, folder = text.partition("=")
        name = ALIASES.get(name, name)
        if name not in LAYOUTS or not folder:
            allowed = ", ".join((*LAYOUTS, *ALIASES))
            raise UsageError(
                f"--on {text!r} is not NAME=DIR with one of the names {allowed}", "use --on cityscapes=DIR"
            )
        if name in [one.name for one in found]:
            raise UsageError(f"--on {name} appears twice", "evaluate the second folder into another --out")
        found.append(_open_set(name, folder, split, only, notify, taxonomy))
    return found


def _open_set(name: str, folder: str, split: str, only: bool, notify: Notify | None, taxonomy: Taxonomy) -> Dataset:
    layout = LAYOUTS[name]
    if layout.default_split == ALL or not any("{split}" in tree.labels for tree in layout.trees):
        return open_dataset(name, folder, None, taxonomy)
    try:
        return open_dataset(name, folder, split, taxonomy)
    except InputError:
        there = splits_in(name, local_path(folder)) if only else []
        if len(there) != 1:
            raise
    if notify is not None:
        notify(f"{name}: {folder} has no split {split}; its only split, {there[0]}, is scored")
    return open_dataset(name, folder, there[0], taxonomy)


def check_dataset(dataset: Dataset, workers: int) -> tuple[list[Sample], list[BadFile]]:
    """Return the samples that look valid and the bad files, from names and file headers alone."""
    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(lambda sample: _check_headers(dataset.name, sample), dataset.samples))
    good = [sample for sample, file in zip(dataset.samples, found, strict=True) if file is None]
    return good, [*(file for file in found if file is not None), *_unlabelled(dataset)]


def read_eval_sample(dataset: str, sample: Sample, protocol: Protocol) -> EvalSample:
    """Read a sample and resize its image to the scale of the protocol, bilinearly as mmcv does.

    Image and label are halved first if the protocol says so; apart from that, the label keeps its size. Raises
    BadSample.
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
    image = np.require(image, requirements=("C", "W"))  # Pillow's arrays are read-only; PyTorch warns about them
    return EvalSample(dataset, sample, image, label)


def read_sample(dataset: str, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Return (photograph uint8 [H,W,3] RGB, train ids uint8 [H,W]). Raises BadSample."""
    try:
        label = read_label(sample.label, sample.encoding, sample.taxonomy)
    except LabelError as error:
        kind = IDS if "unknown ids" in error.message else DAMAGED
        raise BadSample(BadFile(dataset, kind, str(sample.label), error.message)) from error
    try:
        image = read_picture(Path(str(sample.image)))
    except InputError as error:
        raise BadSample(BadFile(dataset, DAMAGED, str(sample.image), error.message)) from error
    if image.shape[:2] != label.shape:
        raise BadSample(_sizes(dataset, sample, label.shape))
    return image, label


def refuse_bad_files(bad_files: Sequence[BadFile]) -> None:
    """Raise InputError with the number and the first files of each kind, if there are any."""
    if not bad_files:
        return
    parts = []
    for (dataset, kind), number in count_bad_files(bad_files).items():
        files = [file.path for file in bad_files if (file.dataset, file.kind) == (dataset, kind)]
        more = f" and {number - _SHOWN} more" if number > _SHOWN else ""
        parts.append(f"{dataset}: {number} of kind '{kind}' ({', '.join(files[:_SHOWN])}{more})")
    raise InputError(f"{len(bad_files)} bad files; {'; '.join(parts)}", "fix them, or skip them with --skip-bad")


def count_bad_files(bad_files: Iterable[BadFile]) -> dict[tuple[str, str], int]:
    """Return the number of bad files by (data set, kind)."""
    return dict(sorted(Counter((file.dataset, file.kind) for file in bad_files).items()))


def label_encodings(dataset: Dataset) -> list[str]:
    """Return descriptions of the encodings of the label maps, such as the class mapping of Mapillary Vistas."""
    names = {sample.encoding for sample in dataset.samples}
    return sorted({find_encoding(name, dataset.taxonomy).description for name in names})


def _check_headers(dataset: str, sample: Sample) -> BadFile | None:
    if sample.image is None:
        return BadFile(dataset, NO_IMAGE, str(sample.label), f"{sample.label}: its photograph was not found")
    try:
        size = label_size(sample.label)
    except LabelError as error:
        return BadFile(dataset, DAMAGED, str(sample.label), error.message)
    try:
        fits = picture_size(sample.image) == size
    except InputError as error:
        return BadFile(dataset, DAMAGED, str(sample.image), error.message)
    return None if fits else _sizes(dataset, sample, size)


def _sizes(dataset: str, sample: Sample, label: tuple[int, ...]) -> BadFile:
    return BadFile(dataset, SIZES, str(sample.label), describe_mismatch(sample, label))


def _unlabelled(dataset: Dataset) -> list[BadFile]:
    """Return photographs without a label map, in the folders and with the ending of those that have one.

    Of pairs by patterns there are none, because the patterns may leave out files on purpose.
    """
    if dataset.name == PAIRS:
        return []
    used = [sample.image for sample in dataset.samples if sample.image is not None]
    endings, labelled = {_ending(path) for path in used}, {(path.parent, same_name(path.stem)) for path in used}
    found = sorted(
        folder / name for folder in {path.parent for path in used} for sub, names in walk(folder) if sub == "."
        for name in names if _ending(Path(name)) in endings
    )  # fmt: skip
    return [
        BadFile(dataset.name, NO_LABEL, str(path), f"{path}: its label map was not found")
        for path in found
        if (path.parent, same_name(path.stem)) not in labelled
    ]


def _ending(path: Path) -> str:
    """Return the end of a photograph's name: a marked one such as ``_rgb_anon.png``, else the file type alone."""
    marks = ("_leftImg8bit", "_rgb_anon")
    split = split_ending(path.stem, marks)
    marked = "" if split is None else marks[split[1]]
    return f"{marked}{path.suffix.lower()}"
