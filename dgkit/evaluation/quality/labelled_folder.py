"""The pictures to measure: a generated folder, or any folder of images and labels."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dgkit.data.labelmap import read_label
from dgkit.data.manifest import read
from dgkit.data.pictures import read_picture
from dgkit.data.prompts import NO_STYLE
from dgkit.errors import InputError

LABEL_SUFFIX = "_labelTrainIds"
IMAGE_TYPES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Picture:
    """One labelled picture. ``image`` uint8 [H,W,3] RGB; ``label`` uint8 [H,W] train ids or 255, of the same size."""

    id: str
    image: np.ndarray
    label: np.ndarray
    style: str


@dataclass(frozen=True)
class Entry:
    """One picture of a folder, not read yet. ``class_name``: the class that its crop was drawn for, if any."""

    id: str
    image: Path
    label: Path
    style: str
    class_name: str | None
    source: str = ""  # label map that it was cut from, with ``crop``
    crop: tuple[int, int, int, int] | None = None  # x, y, width, height

    def read(self) -> Picture:
        """Raises InputError for a file that is missing, no picture, no label map, or of another size."""
        if not self.label.is_file():
            raise InputError(
                f"{self.image} has no label map: {self.label} is missing", "restore it or remove the image"
            )
        image, label = read_picture(self.image), read_label(self.label)
        if image.shape[:2] != label.shape:
            raise InputError(
                f"{self.image} is {image.shape[1]}x{image.shape[0]}, {self.label} is {label.shape[1]}x{label.shape[0]}",
                "an image and its label map need the same size",
            )
        return Picture(self.id, image, label, self.style)


def list_folder(folder: Path | str) -> list[Entry]:
    """Entries of a folder that ``dgkit generate`` wrote, or of any with ``images/`` and ``labels/``.

    Without ``manifest.jsonl`` a picture ``images/X.png`` has the label map ``labels/X.png`` or
    ``labels/X_labelTrainIds.png`` and no style. Raises InputError for a folder without pictures.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder", "give a folder that dgkit generate wrote")
    manifest = folder / "manifest.jsonl"
    entries = list(_from_manifest(folder, manifest)) if manifest.exists() else list(_from_files(folder))
    if not entries:
        raise InputError(
            f"{folder} holds no pictures", f"dgkit generate {folder} makes some; images/ and labels/ are read"
        )
    return entries


def _from_manifest(folder: Path, manifest: Path) -> Iterator[Entry]:
    for number, record in enumerate(read(manifest), 1):
        try:
            image, label = folder / record["image"], folder / record["label"]
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{manifest}, line {number}: no path under {error}", "give a folder that dgkit generate wrote"
            ) from error
        crop_box = tuple(record["crop"]) if record.get("crop") else None
        yield Entry(
            id=str(record.get("id", image.stem)),
            image=image,
            label=label,
            style=str(record.get("style", NO_STYLE)),
            class_name=record.get("class"),
            source=str(record.get("source", "")),
            crop=crop_box,
        )


def _from_files(folder: Path) -> Iterator[Entry]:
    labels = folder / "labels"
    for image in sorted(p for p in (folder / "images").glob("*") if p.suffix.lower() in IMAGE_TYPES):
        marked = labels / f"{image.stem}{LABEL_SUFFIX}.png"
        label = marked if marked.exists() else labels / f"{image.stem}.png"
        yield Entry(image.stem, image, label, NO_STYLE, None)
