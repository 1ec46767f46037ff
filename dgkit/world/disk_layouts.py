"""Files of each role: layout, formats and picture sizes of the data set that the role stands in for."""

import base64
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from dgkit.errors import UsageError
from dgkit.labels import ENCODINGS, PALETTE
from dgkit.world import vistas
from dgkit.world.render import style_of

# The scene numbers of the splits are far apart, so that no two splits share a scene.
SPLITS = {"train": 0, "val": 1 << 30, "test": 1 << 31}
FOLDERS = {"train": "training", "val": "validation", "test": "testing"}
CONDITIONS = {"foggy": "fog", "night": "night", "rainy": "rain", "snowy": "snow"}
_CITIES = {
    "train": ("ahornstadt", "birkenau", "eichfurt", "lindental", "ulmenbach", "weidenfels"),
    "val": ("erlenmuehle", "kieferheim", "tannrode"),
    "test": ("eschwege-nord", "pappelburg"),
}
_SEQUENCE = 40  # frames of one drive
_JPEG_QUALITY = 92


@dataclass(frozen=True)
class ScenePaths:
    """Paths of one scene below the root; ``labels`` are (path, encoding of :func:`encode_label`), possibly none."""

    image: PurePosixPath
    labels: tuple[tuple[PurePosixPath, str], ...]


@dataclass(frozen=True)
class DiskLayout:
    """How a role is written.

    ``dataset``: the data set with this layout, or "imagefolder"; ``splits``: default first; ``aspect``: width / height,
    0 = mixed; ``files``: (split, seed, number) -> the files of a scene.
    """

    dataset: str
    splits: tuple[str | None, ...]
    aspect: float
    files: Callable[[str | None, int, int], ScenePaths]


def _gta(split: str | None, seed: int, number: int) -> ScenePaths:
    below = f"{split}/" if split else ""
    name = f"{below}{number + 1:05d}.png"
    return ScenePaths(PurePosixPath(f"images/{name}"), ((PurePosixPath(f"labels/{name}"), "gta"),))


def _image_folder(split: str | None, seed: int, number: int) -> ScenePaths:
    return ScenePaths(PurePosixPath(f"images/{number + 1:05d}.png"), ())


def _cityscapes(split: str | None, seed: int, number: int) -> ScenePaths:
    cities = _CITIES[str(split)]
    city = cities[number // _SEQUENCE % len(cities)]
    stem = f"{split}/{city}/{city}_{number:06d}_000019"
    return _files(f"leftImg8bit/{stem}_leftImg8bit.png", f"gtFine/{stem}_gtFine")


def _bdd(split: str | None, seed: int, number: int) -> ScenePaths:
    stem = f"{split}/{number:08x}-{_digest(split, seed, number).hex()[:8]}"
    label = PurePosixPath(f"labels/sem_seg/masks/{stem}.png")
    return ScenePaths(PurePosixPath(f"images/10k/{stem}.jpg"), ((label, "train_ids"),))


def _mapillary(split: str | None, seed: int, number: int) -> ScenePaths:
    folder = FOLDERS[str(split)]
    key = base64.urlsafe_b64encode(_digest(split, seed, number)).decode()
    stem = f"{number:06d}{key}"[:22]
    label = PurePosixPath(f"{folder}/labels/{stem}.png")
    return ScenePaths(PurePosixPath(f"{folder}/images/{stem}.jpg"), ((label, "mapillary"),))


def _acdc(split: str | None, seed: int, number: int) -> ScenePaths:
    condition = CONDITIONS[style_of("acdc", seed, scene_index(split, number))]
    return _dashcam(f"{condition}/{split}", 400, number)


def _dark_zurich(split: str | None, seed: int, number: int) -> ScenePaths:
    return _dashcam(f"{split}/night", 356, number)


def _dashcam(folder: str, first: int, number: int) -> ScenePaths:
    drive = f"GOPR{first + number // _SEQUENCE:04d}"
    stem = f"{folder}/{drive}/{drive}_frame_{number:06d}"
    return _files(f"rgb_anon/{stem}_rgb_anon.png", f"gt/{stem}_gt")


def _files(image: str, label: str) -> ScenePaths:
    ids, train_ids = PurePosixPath(f"{label}_labelIds.png"), PurePosixPath(f"{label}_labelTrainIds.png")
    return ScenePaths(PurePosixPath(image), ((ids, "cityscapes_ids"), (train_ids, "train_ids")))


def _digest(split: str | None, seed: int, number: int) -> bytes:
    return hashlib.blake2b(f"{split} {seed} {number}".encode(), digest_size=16).digest()


_ALL = ("train", "val", "test")
DISK_LAYOUTS: dict[str, DiskLayout] = {
    "source": DiskLayout("gta", (None, *_ALL), 2.0, _gta),
    "prior": DiskLayout("imagefolder", (None,), 2.0, _image_folder),
    "cityscapes": DiskLayout("cityscapes", _ALL, 2.0, _cityscapes),
    "bdd": DiskLayout("bdd100k", _ALL, 16 / 9, _bdd),
    "mapillary": DiskLayout("mapillary", _ALL, 0.0, _mapillary),
    "acdc": DiskLayout("acdc", _ALL, 16 / 9, _acdc),
    "darkzurich": DiskLayout("dark_zurich", ("val",), 16 / 9, _dark_zurich),
}


# A role may also be named by the data set whose layout it has.
ROLE_ALIASES = {layout.dataset: role for role, layout in DISK_LAYOUTS.items() if layout.dataset not in DISK_LAYOUTS}


def resolve_split(role: str, split: str | None) -> str | None:
    """Return the split to write, by default the first of the role. Raises UsageError for an unknown one."""
    splits = DISK_LAYOUTS[role].splits
    if split is None:
        return splits[0]
    if split not in splits:
        allowed = ", ".join(s for s in splits if s) or "none"
        hint = f"use --split {next(s for s in splits if s)}" if any(splits) else "omit --split"
        raise UsageError(f"role {role} has no split {split!r}; available: {allowed}", hint)
    return split


def scene_index(split: str | None, number: int) -> int:
    """Return the ``index`` of :func:`dgkit.world.render` for picture ``number`` (0, 1, ..) of a split."""
    return SPLITS[split or "train"] + number


def fixed_width(role: str, height: int, width: int | None) -> int | None:
    """Return the width of all pictures, or None if the role mixes sizes and ``width`` is None."""
    aspect = DISK_LAYOUTS[role].aspect
    if width is not None or aspect == 0:
        return width
    return 2 * height if aspect == 2 else max(32, 8 * round(height * aspect / 8))


def size(role: str, seed: int, index: int, height: int, width: int | None) -> tuple[int, int]:
    """Return (height, width) of one picture; mixed sizes have between 3/4 and 3/2 of ``height`` rows."""
    width = fixed_width(role, height, width)
    if width is not None:
        return height, width
    rng = np.random.default_rng([seed, index, 7])
    aspect = float(rng.choice((4 / 3, 16 / 9, 3 / 2, 3 / 4), p=(0.5, 0.3, 0.15, 0.05)))
    rows = height * float(rng.choice((0.75, 1.0, 1.25, 1.5)))
    return max(32, 8 * round(rows / 8)), max(32, 8 * round(rows * aspect / 8))


def encode_image(image: np.ndarray, path: PurePosixPath) -> bytes:
    """Encode uint8 [H, W, 3] as PNG or JPEG, by the suffix of ``path``."""
    data = io.BytesIO()
    if path.suffix == ".jpg":
        Image.fromarray(image).save(data, "JPEG", quality=_JPEG_QUALITY)
    else:
        Image.fromarray(image).save(data, "PNG", compress_level=1)
    return data.getvalue()


def encode_label(label: np.ndarray, encoding: str) -> bytes:
    """Encode train ids uint8 [H, W] as an 8-bit PNG.

    ``encoding`` is "train_ids" or "cityscapes_ids" (grey), "gta" (Cityscapes labelIds with a palette, 0 for 255) or
    "mapillary" (Vistas v1.2 ids with a palette).
    """
    picture = Image.fromarray(label if encoding == "train_ids" else _TABLES[encoding][label])
    if encoding in _PALETTES:
        picture.putpalette(_PALETTES[encoding].tobytes())
    data = io.BytesIO()
    picture.save(data, "PNG", compress_level=1)
    return data.getvalue()


def _label_ids() -> tuple[np.ndarray, np.ndarray]:
    """Return the table from train id to Cityscapes labelId, and the colours by labelId."""
    table, colours = np.zeros(256, np.uint8), np.zeros((256, 3), np.uint8)
    for label_id, train_id in enumerate(ENCODINGS["cityscapes_ids"].table):
        if 0 <= train_id < len(PALETTE):
            table[train_id] = label_id
            colours[label_id] = PALETTE[train_id]
    return table, colours


_IDS, _COLOURS = _label_ids()
_TABLES = {"cityscapes_ids": _IDS, "gta": _IDS, "mapillary": vistas.table()}
_PALETTES = {"gta": _COLOURS, "mapillary": vistas.palette()}
