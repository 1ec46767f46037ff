"""Photographs: one function reads them for all commands, and crops for classifiers.

A photograph is read as OpenCV and mmcv read it: the EXIF orientation is applied, and 16-bit channels become 8-bit ones.
"""

import io
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from dgkit.data import png
from dgkit.errors import InputError, UsageError
from dgkit.files import open_regular

EXIF = "DGKIT_EXIF"  # environment variable: "apply" (default) or "ignore"
# Larger photographs are refused before decoding, since a small file can unpack to gigabytes.
MAX_PIXELS = 96 * 1024 * 1024
MAX_BYTES = 512 * 1024 * 1024  # of a file
_STRIP = 1 << 24  # pixels that are converted at once
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_GREY16 = ("I;16", "I;16B", "I;16L", "I")
_ERRORS = (OSError, SyntaxError, ValueError, EOFError, KeyError, TypeError, struct.error, Image.DecompressionBombError)
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # tag of EXIF; values that swap width and height


@dataclass(frozen=True)
class _Header:
    """Size as stored, EXIF orientation 1..8, and whether the file is 16-bit grey."""

    height: int
    width: int
    orientation: int
    deep: bool

    @property
    def shown(self) -> int:
        """Orientation that is applied."""
        return 1 if ignores_exif() else self.orientation


def read_picture(path: Path | str) -> np.ndarray:
    """Read a photograph as uint8 [H,W,3] RGB, upright by its EXIF orientation (see :func:`ignores_exif`).

    Of 16-bit channels the high bytes are taken, as OpenCV does. Alpha is dropped. Raises InputError naming the file if
    it cannot be read, is damaged or incomplete, has more than :data:`MAX_PIXELS` pixels, or holds 8-bit values in 16
    bits.
    """
    try:
        with open_regular(path, MAX_BYTES) as stream:
            header = _read_header(stream)
            stream.seek(0)
            depth = 8
            if stream.read(len(png.SIGNATURE)) == png.SIGNATURE:
                stream.seek(0)
                depth = png.check_png(stream.read())
            stream.seek(0)
            with Image.open(stream, formats=_FORMATS) as opened:
                image = _grey16(np.asarray(opened)) if header.deep else _as_rgb(opened)
            if depth == 16 and not header.deep and not image.any():
                raise ValueError("all of its 16-bit values are below 256, so it would be black; save it with 8 bits")
    except _ERRORS as error:
        raise _unreadable(path, error) from error
    return _upright(image, header.shown)


def read_pixels(path: Path | str) -> np.ndarray:
    """Read the pixels of a PNG as they are stored, in their own type and channels. Raises InputError."""
    try:
        with open_regular(path, MAX_BYTES) as stream:
            _read_header(stream)
            stream.seek(0)
            png.check_png(stream.read())
            stream.seek(0)
            with Image.open(stream, formats=("PNG",)) as opened:
                return np.asarray(opened)
    except _ERRORS as error:
        raise _unreadable(path, error) from error


def picture_size(path: Path | str) -> tuple[int, int]:
    """Return (height, width) of what :func:`read_picture` returns, from the header alone. Raises InputError."""
    header = _open_header(path)
    turned = header.shown in _TURNED
    return (header.width, header.height) if turned else (header.height, header.width)


def reading(path: Path | str) -> str:
    """Return how a photograph is read if not as its stored 8-bit pixels, else an empty text.

    Caches of what was computed from photographs hold it, because it changes with dgkit's version and :data:`EXIF`.
    Raises InputError.
    """
    header = _open_header(path)
    return ", ".join([f"EXIF orientation {header.shown}"] * (header.shown != 1) + ["16-bit grey"] * header.deep)


def describe_size(path: Path | str) -> str:
    """Return ``PATH is 640x480`` for an error message, with the EXIF orientation if there is one. Raises InputError."""
    header = _open_header(path)
    height, width = picture_size(path)
    text = f"{path} is {width}x{height}"
    if header.orientation == 1:
        return text
    if ignores_exif():
        return f"{text} (its EXIF orientation {header.orientation} is ignored because of {EXIF}=ignore)"
    return (
        f"{text} (stored as {header.width}x{header.height} with EXIF orientation {header.orientation}; "
        f"{EXIF}=ignore takes photographs as they are stored)"
    )


def ignores_exif() -> bool:
    """Return whether photographs are taken as stored, for data sets labelled on stored pixels: ``DGKIT_EXIF=ignore``.

    Raises UsageError for another value of the variable than "apply" and "ignore".
    """
    value = os.environ.get(EXIF) or "apply"
    if value not in ("apply", "ignore"):
        raise UsageError(f"{EXIF}={value} is not allowed; allowed: apply, ignore", f"unset {EXIF}")
    return value == "ignore"


def png_orientation(data: bytes) -> int:
    """Return the EXIF orientation, 1..8, that the content of a PNG states; 1 if it states none."""
    return _orientation(png.read_exif(io.BytesIO(data)))


def _open_header(path: Path | str) -> _Header:
    try:
        with open_regular(path, MAX_BYTES) as stream:
            return _read_header(stream)
    except _ERRORS as error:
        raise _unreadable(path, error) from error


def _read_header(stream: BinaryIO) -> _Header:
    with Image.open(stream, formats=_FORMATS) as opened:
        width, height = opened.size
        mode, kind, exif = opened.mode, opened.format, opened.info.get("exif", b"")
        if width * height > MAX_PIXELS:
            raise ValueError(f"{width}x{height} pixels; the limit is {MAX_PIXELS >> 20} Mpx")
        if mode == "F":
            raise ValueError("its pixels are floating-point numbers; 8 or 16 bits are allowed")
        if kind == "PNG":
            exif = png.read_exif(stream)
    return _Header(height, width, _orientation(exif), mode in _GREY16)


def _as_rgb(opened: Image.Image) -> np.ndarray:
    """Return uint8 [H,W,3]. Rows are converted in strips: a copy of all would double the memory of a large image."""
    opened.load()
    image = np.empty((opened.height, opened.width, 3), np.uint8)
    step = max(1, _STRIP // opened.width)
    for top in range(0, opened.height, step):
        bottom = min(opened.height, top + step)
        image[top:bottom] = np.asarray(opened.crop((0, top, opened.width, bottom)).convert("RGB"))
    return image


def _orientation(exif: bytes) -> int:
    """Return the orientation, 1..8, in the first directory of EXIF data; 1 if it states none that is valid."""
    data = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _ = struct.unpack_from(f"{order}HHI", data, entry)
            if tag == _ORIENTATION:
                (value,) = struct.unpack_from(f"{order}{'I' if kind == 4 else 'H'}", data, entry + 8)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Return ``image`` [H,W,3] as an EXIF orientation says it is shown."""
    if orientation == 1:
        return image
    turned = image.swapaxes(0, 1) if orientation in _TURNED else image
    rows, columns = (-1 if orientation in values else 1 for values in ((3, 4, 7, 8), (2, 3, 6, 7)))
    return np.ascontiguousarray(turned[::rows, ::columns])


def _grey16(grey: np.ndarray) -> np.ndarray:
    highest = int(grey.max(initial=0))
    if 0 < highest < 256:
        raise ValueError(f"its 16-bit grey values end at {highest}: they are 8-bit values; save it with 8 bits")
    return np.repeat((grey >> 8).astype(np.uint8)[:, :, None], 3, axis=2)


def _unreadable(path: Path | str, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: no such file", "check the path of the image")
    reason = " ".join(str(error).replace(f"{path!r}", "the file").split()) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    elif "cannot identify" in reason:
        reason = f"it is none of {', '.join(_FORMATS)}"
    return InputError(f"{path} cannot be read as an image: {reason}", "copy or generate it again")


def centre_square(image: np.ndarray, size: int) -> np.ndarray:
    """Crop the largest central square of uint8 [H,W,3] and resize it to uint8 [size,size,3]."""
    import cv2

    side = min(image.shape[:2])
    y, x = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    square = np.ascontiguousarray(image[y : y + side, x : x + side])
    return cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)
