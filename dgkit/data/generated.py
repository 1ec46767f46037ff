"""Reading generated folders: settings, scenes, agreement, and the labels that ``dgkit filter`` wrote.

:func:`open_generated` reads a folder of ``dgkit generate`` with all that its manifest says. :func:`list_scenes` needs
less: the manifest lines may hold no more than an image and a label, and without a manifest any folder with ``images/``
and ``labels/`` will do.
"""

import functools
import reprlib
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dgkit.config import read_recipe
from dgkit.data import manifest
from dgkit.data.datasets import labels_folder
from dgkit.data.folder_taxonomy import MANIFEST as MANIFEST
from dgkit.data.folder_taxonomy import SETTINGS as SETTINGS
from dgkit.data.folder_taxonomy import class_numbers, folder_taxonomy, settings_taxonomy
from dgkit.data.listing import PHOTOGRAPHS, find_named, same_name, split_ending, walk
from dgkit.data.pairs import read_pair
from dgkit.data.records import line_fault, names_own_files, with_slashes
from dgkit.data.samples import Sample
from dgkit.errors import InputError
from dgkit.files import digest_file, user_path
from dgkit.styles import NO_STYLE
from dgkit.taxonomies import CITYSCAPES19, Taxonomy

FILTERED = "labels_filtered"  # subfolder of `dgkit filter`, with a manifest of the scenes that it kept
MEASURED = ".measured.jsonl"  # in FILTERED: what `dgkit filter` measured of every scene
# Keys that a manifest line needs to describe a scene; it may hold more.
_KEYS = frozenset({"index", "id", "image", "label", "source", "class", "crop", "prompt", "style", "seed"})

Line = dict[str, Any]
"""One line of a manifest."""


@dataclass(frozen=True, eq=False)
class GeneratedFolder:
    """A folder of ``dgkit generate``: ``settings`` of its config.yaml, ``records`` (manifest lines) in job order."""

    path: Path
    settings: dict[str, Any]
    records: tuple[Line, ...]

    @property
    def name(self) -> str:
        """Name of the folder, without its parents."""
        return self.path.resolve().name

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the images in pixels; None if the settings do not state it."""
        size = self.settings.get("size")
        if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
            return None
        return size[0], size[1]

    @functools.cached_property
    def taxonomy(self) -> Taxonomy:
        """Classes of the labels. Raises InputError for settings that state none that can be used."""
        return settings_taxonomy(self.settings, self.path / SETTINGS)

    @property
    def styles(self) -> dict[str, int]:
        """Number of scenes of each style, the most frequent first."""
        return _counted(str(record["style"]) for record in self.records)

    @property
    def crop_classes(self) -> dict[str, int]:
        """Number of scenes whose crop was chosen for each class, the most frequent first."""
        return _counted(str(record["class"]) for record in self.records if record["class"] is not None)


@dataclass(frozen=True)
class LabelledImage:
    """Pixels of a scene: ``image`` uint8 [H,W,3] RGB, ``label`` uint8 [H,W] train ids 0..18 or 255 (ignore)."""

    id: str
    image: np.ndarray
    label: np.ndarray
    style: str = NO_STYLE


@dataclass(frozen=True)
class SceneFiles:
    """The files of one labelled image, not read yet, and how it was made.

    ``encoding``: id system of the label. ``class_name``: class that its crop was chosen for. ``source``: label map from
    which the crop (x, y, width, height) in pixels was taken. ``sha256``: digests of image and label in the manifest.
    """

    id: str
    image: Path
    label: Path
    encoding: str = "train_ids"
    style: str = NO_STYLE
    class_name: str | None = None
    source: str = ""
    crop: tuple[int, int, int, int] | None = None
    sha256: tuple[str | None, str | None] = (None, None)
    taxonomy: Taxonomy = CITYSCAPES19

    @property
    def sample(self) -> Sample:
        """Image and label as a sample of a data set."""
        return Sample(self.id, self.label, self.image, self.encoding, taxonomy=self.taxonomy)

    def read(self) -> LabelledImage:
        """Read image and label.

        Raises InputError if a file is missing, cannot be read, or has another size than its counterpart.
        """
        if not self.label.is_file():
            raise InputError(
                f"{self.image} has no label map: {self.label} is missing", "restore the label map or remove the image"
            )
        image, label = read_pair(self.sample)
        return LabelledImage(self.id, image, label, self.style)

    def digests(self) -> tuple[str, str]:
        """Return the SHA-256 of image and label as they are on disk. Raises InputError if one cannot be read."""
        try:
            return digest_file(self.image), digest_file(self.label)
        except OSError as error:
            raise InputError(
                f"{error.filename}: {error.strerror}", "run dgkit generate into this folder again to restore it"
            ) from error


def open_generated(path: Path | str, *, partial: bool = False, filtered: bool = False) -> GeneratedFolder:
    """Read settings and manifest of a folder that ``dgkit generate`` wrote; images are not opened.

    ``partial`` accepts a folder whose run has not finished. ``filtered`` takes the labels of ``dgkit filter`` and only
    the scenes that it kept.

    Raises InputError if the folder is not one of ``dgkit generate``, holds no scenes or too few, or if ``dgkit filter``
    has not finished.
    """
    path = user_path(path)
    if not (path / MANIFEST).is_file() or not (path / SETTINGS).is_file():
        raise not_generated(path)
    settings = read_recipe(path / SETTINGS)
    lines = [with_slashes(line) for line in manifest.read(path / MANIFEST)]
    again = f"dgkit generate {path}"
    for record in lines:
        if (fault := line_fault(record)) or not record.keys() >= _KEYS or not names_own_files(record, "image", "label"):
            raise InputError(
                f"{path / MANIFEST}: the line of {reprlib.repr(record.get('id'))} does not describe a scene of this "
                f"folder{fault and f' ({fault})'}",
                f"{again} repairs the manifest",
            )
    records = sorted(lines, key=lambda line: (line["index"], line["id"]))
    wanted = None if settings.get("shard") else settings.get("count")  # a shard has fewer than its settings say
    if not records or (not partial and isinstance(wanted, int) and len(records) < wanted):
        raise InputError(f"{path} holds {len(records)} of {settings.get('count')} scenes", f"{again} makes the rest")
    folder = GeneratedFolder(path, settings, tuple(records))
    return _with_filtered_labels(folder) if filtered else folder


def not_generated(path: Path) -> InputError:
    """Return the error for a folder that ``dgkit generate`` did not write, or that does not exist."""
    if path.is_dir():  # dgkit generate would refuse a folder that holds other files
        reason, hint = f"it needs {MANIFEST} and {SETTINGS}", "pass a folder that dgkit generate wrote"
    else:
        reason, hint = "there is no such folder", f"dgkit generate {path} makes one"
    return InputError(f"{path} is not a folder of dgkit generate: {reason}", hint)


def _with_filtered_labels(folder: GeneratedFolder) -> GeneratedFolder:
    kept = {str(line.get("id")): line for line in _read_filtered(folder.path)}
    records = tuple(
        {
            **record,
            "label": f"{FILTERED}/{Path(record['label']).name}",
            "label_sha256": kept[record["id"]].get("label_sha256"),
        }
        for record in folder.records
        if record["id"] in kept
    )
    if not records:
        raise _nothing_kept(folder.path)
    return GeneratedFolder(folder.path, folder.settings, records)


def find_agreement(folder: GeneratedFolder) -> list[float | None] | None:
    """Return the share of pixels, 0..1, that a segmenter classifies as the label says, one value for each scene.

    Values of the manifest come first, then those that ``dgkit filter`` measured. A scene without a value is None; the
    result is None if no scene has one. Raises InputError for a damaged file of the filter.
    """
    paths = [folder.path / FILTERED / name for name in (MEASURED, MANIFEST)]
    lines = (line for path in paths for line in manifest.read(path))
    filtered = {str(line.get("id")): line.get("agreement") for line in lines if "agreement" in line}
    values = [_share(record.get("agreement", filtered.get(record["id"]))) for record in folder.records]
    return values if any(value is not None for value in values) else None


def list_scenes(
    folder: Path | str,
    *,
    filtered: bool = False,
    refuse_unlabelled: bool = False,
    taxonomy: Taxonomy | None = None,
) -> list[SceneFiles]:
    """Return the scenes of a manifest, or without one all pairs of ``images/`` and ``labels/`` (train ids).

    ``filtered`` takes the labels of ``dgkit filter`` and only the scenes that it kept. ``refuse_unlabelled``: without a
    manifest, an image without a label map is an error instead of being skipped. The labels are read as classes of
    ``taxonomy``, by default those that the settings of the folder state.

    Raises InputError if there are no scenes, for a manifest line without image and label, or if ``taxonomy`` has no
    table from the classes of the folder.
    """
    folder = user_path(folder)
    if not folder.is_dir():
        raise not_generated(folder)
    wanted = taxonomy or folder_taxonomy(folder) or CITYSCAPES19
    if filtered:
        lines, path = _read_filtered(folder), folder / FILTERED / MANIFEST
        if not lines:
            raise _nothing_kept(folder)
    else:
        path = folder / MANIFEST
        lines = manifest.read(path)
    if path.is_file():
        numbers = class_numbers(folder, wanted) or "train_ids"
        found = [_scene(folder, line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]
        scenes = [replace(scene, encoding=numbers, taxonomy=wanted) for scene in found]
    else:
        scenes = _pair_files(folder, refuse_unlabelled, wanted)
    if not scenes:
        raise InputError(
            f"{folder} holds no labelled images",
            f"dgkit generate {folder} makes some; any folder with images/ and labels/ will do",
        )
    return scenes


def check_files(folder: Path, scenes: Sequence[SceneFiles], *, digests: bool = True) -> None:
    """Check that all files of ``scenes`` exist and, with ``digests``, that they are those that the manifest describes.

    Raises InputError naming the files that are missing or differ, or a scene whose manifest line has no digests.
    """
    files = [pair for scene in scenes for pair in zip((scene.image, scene.label), scene.sha256, strict=True)]
    unstated = next((path for path, digest in files if digest is None), None)
    if unstated is not None:
        raise InputError(
            f"{folder}: the manifest states no image_sha256 or label_sha256 of {unstated.relative_to(folder)}",
            "generate the folder again",
        )
    _refuse(folder, [path for path, _ in files if not path.is_file()], "are missing")
    if digests:
        with ThreadPoolExecutor() as pool:
            found = pool.map(digest_file, [path for path, _ in files])
            differing = [path for (path, digest), seen in zip(files, found, strict=True) if seen != digest]
        _refuse(folder, differing, "differ from their SHA-256 in the manifest")


def _refuse(folder: Path, files: Sequence[Path], what: str) -> None:
    if files:
        names = ", ".join(str(path.relative_to(folder)) for path in files[:3]) + (", ..." if len(files) > 3 else "")
        raise InputError(
            f"{folder}: {len(files)} generated files {what}: {names}",
            "run dgkit generate into this folder again to restore them",
        )


def _read_filtered(folder: Path) -> list[Line]:
    path = folder / FILTERED / MANIFEST
    if not path.is_file():
        raise InputError(
            f"{folder} has no complete filtered labels: {FILTERED}/{MANIFEST} is missing",
            f"dgkit filter {folder} --segmenter FILE.onnx writes them",
        )
    return manifest.read(path)


def _nothing_kept(folder: Path) -> InputError:
    return InputError(
        f"{folder / FILTERED / MANIFEST} keeps none of the scenes of {folder}",
        "run dgkit filter with a lower --min-agreement",
    )


def _scene(folder: Path, line: Line, where: str) -> SceneFiles:
    if isinstance(line.get("id"), int):
        line = {**line, "id": str(line["id"])}
    if fault := line_fault(line):
        raise InputError(f"{where}: {fault}", "correct the manifest, or restore it from a copy")
    try:
        image, label = find_named(folder, line["image"]), find_named(folder, line["label"])
        crop = tuple(line["crop"]) if line.get("crop") else None
    except (KeyError, TypeError) as error:
        raise InputError(f"{where}: no usable path under {error}", "pass a folder that dgkit generate wrote") from error
    return SceneFiles(
        id=str(line.get("id", image.stem)),
        image=image,
        label=label,
        style=str(line.get("style", NO_STYLE)),
        class_name=line.get("class"),
        source=str(line.get("source", "")),
        crop=crop,
        sha256=(line.get("image_sha256"), line.get("label_sha256")),
    )


def _pair_files(folder: Path, refuse_unlabelled: bool, taxonomy: Taxonomy) -> list[SceneFiles]:
    samples = labels_folder(folder, taxonomy=taxonomy).samples if (folder / "labels").is_dir() else ()
    scenes = [SceneFiles(s.id, s.image, s.label, s.encoding, taxonomy=taxonomy) for s in samples if s.image is not None]
    if refuse_unlabelled:
        labelled = {(scene.image.parent, same_name(scene.image.stem)) for scene in scenes}
        found = [folder / "images" / sub / name for sub, names in walk(folder / "images") for name in names]
        for image in sorted(found):
            if split_ending(image.name, PHOTOGRAPHS) and (image.parent, same_name(image.stem)) not in labelled:
                raise InputError(
                    f"{image} has no label map: {folder / 'labels' / image.stem}.png is missing",
                    "restore the label map or remove the image",
                )
    return scenes


def _share(value: Any) -> float | None:
    valid = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    return round(float(value), 4) if valid else None


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))
