"""The pictures to measure: a generated folder, any folder of images and labels, or renders of the city."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dgkit.data.crops import anchor_box, crop
from dgkit.data.labelmap import read_label
from dgkit.data.manifest import read
from dgkit.data.pictures import read_picture
from dgkit.data.prompts import NO_STYLE
from dgkit.errors import InputError, UsageError
from dgkit.labels import CLASSES
from dgkit.world import ROLES, render

LABEL_SUFFIX = "_labelTrainIds"
IMAGE_TYPES = (".png", ".jpg", ".jpeg")
TRIES = 8  # scenes looked through for one that holds the class that a crop was drawn for
REFERENCE_SEED = 9_000  # of the scenes of a reference role: neither the generator nor the judge was trained on it


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
        name = record.get("class")
        yield Entry(str(record.get("id", image.stem)), image, label, str(record.get("style", NO_STYLE)), name)


def _from_files(folder: Path) -> Iterator[Entry]:
    labels = folder / "labels"
    for image in sorted(p for p in (folder / "images").glob("*") if p.suffix.lower() in IMAGE_TYPES):
        marked = labels / f"{image.stem}{LABEL_SUFFIX}.png"
        label = marked if marked.exists() else labels / f"{image.stem}.png"
        yield Entry(image.stem, image, label, NO_STYLE, None)


def check_role(role: str) -> None:
    """Raise UsageError for a role that the city does not have."""
    if role not in ROLES:
        raise UsageError(
            f"reference {role!r} is neither a folder nor a role of the city; roles: {', '.join(ROLES)}",
            "give --reference prior or a folder with images/ and labels/",
        )


def render_like(role: str, entries: Sequence[Entry], size: tuple[int, int], height: int | None = None) -> "Renders":
    """Scenes of ``role`` that resemble ``entries``: as many, as large, of the same styles and drawn classes.

    ``size`` is (height, width) of a crop; scenes are ``height`` pixels high (None: as high as the crop, at least 256)
    and twice as wide. Raises UsageError for an unknown role.
    """
    check_role(role)
    return Renders(role, entries, size, height or max(size[0], -(-size[1] // 2), 256))


@dataclass(frozen=True)
class Renders:
    """Iterates over :class:`Picture`; the same arguments give the same pictures."""

    role: str
    entries: Sequence[Entry]
    size: tuple[int, int]
    height: int

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Picture]:
        for number, entry in enumerate(self.entries):
            yield self._like(number, entry)

    def _like(self, number: int, entry: Entry) -> Picture:
        rng = np.random.default_rng([REFERENCE_SEED, number])
        style = entry.style if self.role == "prior" else None  # the other roles have looks of their own
        class_id = CLASSES.index(entry.class_name) if entry.class_name in CLASSES else None
        for attempt in range(TRIES if class_id is not None else 1):
            index = number * TRIES + attempt
            scene = render(self.role, REFERENCE_SEED, index, height=self.height, width=2 * self.height, style=style)
            if class_id is None or (scene.label == class_id).any():
                break
        y, x = self._anchor(scene.label, class_id, rng)
        box = anchor_box(y, x, scene.label.shape[0], scene.label.shape[1], self.size)
        image = scene.image[box.y : box.y + box.height, box.x : box.x + box.width]
        return Picture(f"{self.role}-{number}", np.ascontiguousarray(image), crop(scene.label, box), scene.style)

    def _anchor(self, label: np.ndarray, class_id: int | None, rng: np.random.Generator) -> tuple[int, int]:
        """A pixel of the class, where there is one, else any pixel."""
        places = np.flatnonzero(label == class_id) if class_id is not None else np.empty(0, int)
        place = int(rng.choice(places)) if len(places) else int(rng.integers(label.size))
        return divmod(place, label.shape[1])
