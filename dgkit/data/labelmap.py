"""Label maps: read any accepted id system into train ids, write them, and turn them into what networks take.

The look-up table of an id system is applied in :func:`read_label` and nowhere else. Arrays it returns are read-only,
because a helper that edits its argument is how published sets came to hold 19 where 255 was meant.
"""

import functools
import io
import json
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from dgkit.errors import InputError, LabelError, UsageError
from dgkit.files import atomic_write
from dgkit.labels import (
    ENCODINGS,
    FORBIDDEN,
    IGNORE,
    NUM_CLASSES,
    PALETTE,
    Encoding,
    mapillary_by_name,
)

MAX_PIXELS = 64 * 1024 * 1024  # larger maps are refused before decoding: a small file can unpack to gigabytes
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTED = 0, 3
_COLOURS = {2: "an RGB", 4: "a grey and alpha", 6: "an RGBA"}
_COLOUR_TABLE = np.zeros((256, 3), dtype=np.uint8)
_COLOUR_TABLE[:NUM_CLASSES] = PALETTE


def read_label(path: Path | str, encoding: str = "train_ids") -> np.ndarray:
    """Read a PNG of ids in ``encoding`` (see :func:`find_encoding`) as train ids.

    8-bit palette and grey files, 16-bit grey files, and (SYNTHIA) files with several channels are label maps; for a
    palette file the indices count, not the colours.

    Returns uint8 [H, W], values 0..18 or 255 (ignore), read-only. Raises :class:`LabelError` naming the file for
    anything that is no such map, and :class:`UsageError` for an unknown encoding.
    """
    path = Path(path)
    system = find_encoding(encoding)
    data = _read_bytes(path)
    width, height, depth, colour = _header(path, data)
    if width * height > MAX_PIXELS:
        raise LabelError(
            f"{path}: {width}x{height} pixels are {width * height / 2**20:.0f} Mpx, allowed are {MAX_PIXELS >> 20} Mpx",
            "cut or scale the map down",
        )
    if colour in _COLOURS and system.channel is None:
        raise LabelError(
            f"{path}: {_COLOURS[colour]} picture, not a label map; allowed are single-channel PNGs of ids",
            "give the files that hold class ids (such as *_labelTrainIds.png), not the colour maps or the photographs",
        )
    if colour == _GREY and depth < 8:
        raise LabelError(f"{path}: {depth}-bit grey PNG, allowed are 8 and 16 bits", "save the ids as 8-bit grey")
    return encode(_decode(path, data, depth, colour, system), encoding, path)


def encode(raw: np.ndarray, encoding: str = "train_ids", source: Path | str = "label map") -> np.ndarray:
    """Turn an integer array [H, W] of ids in ``encoding`` into train ids; ``source`` names it in errors.

    Returns uint8 [H, W], values 0..18 or 255, read-only; ``raw`` is not changed. Raises :class:`LabelError` with the
    ids found, those allowed, and the encoding they fit.
    """
    system = find_encoding(encoding)
    if raw.ndim != 2 or raw.size == 0 or raw.dtype.kind not in "iub":
        raise LabelError(
            f"{source}: {raw.dtype} array of shape {raw.shape}, allowed are integer arrays [height, width]",
            "pass one id per pixel",
        )
    if raw.dtype != np.uint8:
        if raw.min() < 0 or raw.max() > 255:
            raise _unknown_ids(np.unique(raw).tolist(), system, source)
        raw = raw.astype(np.uint8)
    mapped = system.table[raw]
    if mapped.min() == FORBIDDEN:
        raise _unknown_ids(np.unique(raw).tolist(), system, source)
    return _frozen(mapped.astype(np.uint8))


def resize_label(label: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a map [H, W] to [height, width], each new cell taking the pixel under its centre; ids are never mixed.

    Same dtype, read-only. Raises :class:`UsageError` for a size below 1.
    """
    if height < 1 or width < 1:
        raise UsageError(f"cannot resize a label map to {width}x{height}", "give a width and height of at least 1")
    old_height, old_width = label.shape
    if (old_height, old_width) == (height, width):
        return _frozen(label.copy())
    # Integer arithmetic: floor((i + 1/2) * old / new) without rounding errors at large sizes.
    rows = (2 * np.arange(height) + 1) * old_height // (2 * height)
    columns = (2 * np.arange(width) + 1) * old_width // (2 * width)
    return _frozen(label[rows[:, None], columns])


def colorize(label: np.ndarray) -> np.ndarray:
    """Cityscapes colours of a map [H, W] of train ids: uint8 [H, W, 3], RGB; ignore is black."""
    _check_train_ids(label)
    return _COLOUR_TABLE[label]


def write_label(path: Path | str, label: np.ndarray) -> None:
    """Write uint8 [H, W] train ids (0..18, 255) as an 8-bit grey PNG that is complete or absent.

    Raises :class:`LabelError` for another array and :class:`OutputError` if the file cannot be written.
    """
    _check_train_ids(label)
    if ((label >= NUM_CLASSES) & (label != IGNORE)).any():
        raise LabelError(f"{path}: a map to be written holds id {NUM_CLASSES}", f"write {IGNORE} for ignore")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(label)).save(buffer, "PNG")
    atomic_write(path, buffer.getvalue())


def find_encoding(name: str) -> Encoding:
    """The id system of a name in ``dgkit.labels.ENCODINGS``, or of ``"mapillary_b@CONFIG.json"``.

    The second form reads the class names of any version of Mapillary Vistas from its own config file. Raises
    :class:`UsageError` for an unknown name and :class:`InputError` for a config file that cannot be used.
    """
    if name in ENCODINGS:
        return ENCODINGS[name]
    family, at, config = name.partition("@")
    if family == "mapillary_b" and at:
        return _mapillary_encoding(config)
    raise UsageError(f"unknown encoding {name!r}, allowed: {', '.join(ENCODINGS)}", "use one of the allowed encodings")


def label_size(path: Path | str) -> tuple[int, int]:
    """(height, width) of a PNG in pixels, from its header alone. Raises :class:`LabelError`."""
    path = Path(path)
    width, height, _, _ = _header(path, _read_bytes(path, 64))
    return height, width


@functools.lru_cache(maxsize=8)
def _mapillary_encoding(config: str) -> Encoding:
    try:
        labels = json.loads(Path(config).read_text(encoding="utf-8"))["labels"]
        names = [str(entry.get("readable") or entry["name"]) for entry in labels]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"cannot read class names from {config}: {type(error).__name__}: {error}",
            "give the config.json that Mapillary Vistas ships beside its folders",
        ) from error
    if not 0 < len(names) <= IGNORE:
        raise InputError(f"{config} lists {len(names)} classes, allowed are 1..{IGNORE}", "check the file")
    description = f"Mapillary Vistas ids 0..{len(names) - 1}, mapping B (by name)"
    return Encoding(f"mapillary_b@{config}", mapillary_by_name(names), description, ("mapillary_v2",))


def _read_bytes(path: Path, limit: int = -1) -> bytes:
    try:
        with open(path, "rb") as stream:
            data = stream.read(limit)
    except FileNotFoundError as error:
        raise LabelError(f"{path}: no such file", "check the path of the label map") from error
    except IsADirectoryError as error:
        raise LabelError(f"{path}: a folder, not a label map", "give the folder with --labels DIR") from error
    except PermissionError as error:
        raise LabelError(f"{path}: permission denied", f"make it readable: chmod u+r '{path}'") from error
    except OSError as error:
        raise LabelError(
            f"{path}: cannot be read ({error.strerror or error})", "check the disk and the path"
        ) from error
    if not data:
        raise LabelError(f"{path}: 0 bytes, the file is empty", "copy or download it again")
    return data


def _header(path: Path, data: bytes) -> tuple[int, int, int, int]:
    """(width, height, bit depth, colour type) of PNG bytes."""
    if not data.startswith(_SIGNATURE[: len(data)]):
        kind = _kind(data)
        raise LabelError(f"{path}: {kind}, allowed are PNG files of ids", "give label maps, saved as PNG without loss")
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise LabelError(f"{path}: the PNG is cut off in its header", "copy or download it again")
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if not width or not height:
        raise LabelError(f"{path}: the PNG states {width}x{height} pixels", "copy or download it again")
    return width, height, depth, colour


def _check_chunks(data: bytes) -> None:
    """Raise ``ValueError`` unless all chunks are there with the right checksum; Pillow skips this for pixel data."""
    start = len(_SIGNATURE)
    while start + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, start)
        end = start + 8 + length
        if end + 4 > len(data):
            break
        if zlib.crc32(data[start + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ValueError("a checksum is wrong")
        if data[start + 4 : start + 8] == b"IEND":
            return
        start = end + 4
    raise ValueError("its end is missing")


def _kind(data: bytes) -> str:
    known = ((b"\xff\xd8", "a JPEG"), (b"GIF8", "a GIF"), (b"BM", "a BMP"), (b"II*\0", "a TIFF"), (b"MM\0*", "a TIFF"))
    return next((name for magic, name in known if data.startswith(magic)), "not a PNG")


def _decode(path: Path, data: bytes, depth: int, colour: int, system: Encoding) -> np.ndarray:
    """Ids as the file holds them, integer [H, W]."""
    try:
        _check_chunks(data)
        if colour in _COLOURS:
            return _decode_channel(data, system)
        # The size was checked above, with a bound below the one at which Pillow warns.
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            raw = np.asarray(picture)
        return raw.astype(np.uint16) if depth == 16 else raw
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise LabelError(f"{path}: the PNG is cut off or damaged ({error})", "copy or download it again") from error


def _decode_channel(data: bytes, system: Encoding) -> np.ndarray:
    import cv2

    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # Pillow cuts 16-bit colour to 8 bits
    if picture is None:
        raise ValueError("it cannot be decoded")
    assert system.channel is not None
    return picture if picture.ndim == 2 else picture[..., 2 - system.channel]  # OpenCV holds B, G, R


def _unknown_ids(found: list[int], system: Encoding, source: Path | str) -> LabelError:
    allowed = set(system.allowed)
    unknown = [i for i in found if i not in allowed]
    fitting = [e for e in ENCODINGS.values() if e is not system and set(found) <= set(e.allowed)]
    if fitting:
        best = fitting[0]
        options = " or ".join(f"--dataset {name}=DIR" for name in best.datasets)
        hint = f"these look like {best.description}; add --encoding {best.name} to --labels, or use {options}"
    else:
        hint = "no known id system has these ids; convert the maps to Cityscapes train ids (0..18, 255 = ignore)"
    return LabelError(
        f"{source}: unknown ids {ranges(unknown)} for {system.name}; found {ranges(found)}, "
        f"allowed {ranges(system.allowed)}",
        hint,
    )


def ranges(ids: Iterable[int], limit: int = 12) -> str:
    """Ascending integers as short text, e.g. ``0-18, 255``; at most ``limit`` runs are written."""
    runs: list[list[int]] = []
    for i in ids:
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    text = [str(a) if a == b else f"{a}-{b}" for a, b in runs[:limit]]
    return ", ".join(text) + (", ..." if len(runs) > limit else "")


def _check_train_ids(label: np.ndarray) -> None:
    if label.ndim != 2 or label.dtype != np.uint8 or label.size == 0:
        raise LabelError(
            f"a label map is uint8 [height, width], got {label.dtype} of shape {label.shape}",
            "read it with dgkit.data.labelmap.read_label",
        )
    bad = (label > NUM_CLASSES) & (label != IGNORE)
    if bad.any():
        raise _unknown_ids(np.unique(label).tolist(), ENCODINGS["train_ids"], "label map")


def _frozen(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array
