"""Photographs with their label maps: reading both, and comparing their sizes."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from dgkit.data.pictures import describe_size, picture_size, read_picture
from dgkit.data.samples import Dataset, Sample
from dgkit.errors import InputError, LabelError

T = TypeVar("T")


def read_pair(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Read the photograph, uint8 [H, W, 3] RGB, and the train ids, uint8 [H, W], of a sample.

    Raises LabelError if the sample has no photograph, if a file cannot be read, or if the sizes differ.
    """
    label = sample.train_ids()
    if sample.image is None:
        raise LabelError(
            f"{sample.label}: the photograph of this label map was not found", "complete the download of the images"
        )
    image = _read_image(read_picture, sample.image)
    if image.shape[:2] != label.shape:
        raise LabelError(describe_mismatch(sample, label.shape), "remove the pair, or download both files again")
    return image, label


def check_pairs(dataset: Dataset) -> None:
    """Compare the sizes of all photographs and label maps, from their headers.

    Raises LabelError naming the first pairs that differ, and the number of such pairs.
    """
    differing = mismatched_pairs(dataset)
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise LabelError(
            f"{len(differing)} of {len(dataset.samples)} pairs differ in size: {'; '.join(differing[:3])}{more}",
            "remove these pairs, or download them again",
        )


def mismatched_pairs(dataset: Dataset) -> list[str]:
    """Return a line for each photograph whose size differs from that of its label map.

    Samples without a photograph are skipped. Raises LabelError for a file that cannot be read.
    """
    lines = []
    for sample in dataset.samples:
        if sample.image is None:
            continue
        size = sample.size()
        if _read_image(picture_size, sample.image) != size:
            lines.append(describe_mismatch(sample, size))
    return lines


def describe_mismatch(sample: Sample, label: tuple[int, ...]) -> str:
    """Return a line about a photograph whose size is not that of its label map, (height, width)."""
    return f"{sample.label} is {label[1]}x{label[0]} but {describe_size(str(sample.image))}"


def _read_image(read: Callable[[Path], T], path: Path) -> T:
    try:
        return read(path)
    except InputError as error:
        raise LabelError(error.message, error.hint) from error
