"""Uploaded label maps: PNG files of ids as everywhere in dgkit, and pictures in the Cityscapes colours."""

import base64
import binascii
from pathlib import Path

import numpy as np

from dgkit.data.colour_maps import COLOURS, colour_encoding
from dgkit.data.labelmap import read_label
from dgkit.data.pictures import picture_size, read_picture
from dgkit.errors import DgkitError, InputError, LabelError, one_line

MAX_UPLOAD = 16 << 20  # bytes of a file
MAX_MAP_PIXELS = 32 << 20  # of an uploaded map, and of a map after scaling; a map of Mapillary Vistas has 24 Mpx
MOST_INEXACT = 0.5  # share of pixels without a palette colour above which a picture is not a label map
_CHUNK = 1 << 16  # colours that are compared at once


def read_upload(folder: Path, name: object, data: object, encoding: str) -> tuple[np.ndarray, str]:
    """Return the train ids, uint8 [H, W], of an uploaded file, and a note, empty if everything was as expected.

    ``data`` is the file in base64, ``encoding`` an id system. With the colours of Cityscapes, pixels of other colours
    are allowed, see :func:`ids_of_colours`. ``folder`` keeps the file while it is read. Raises LabelError or InputError
    without the path of ``folder``.
    """
    path = folder / "upload.png"
    path.write_bytes(_content(data))
    shown_name = one_line(name, 80) if isinstance(name, str) and name else "the uploaded file"
    try:
        height, width = picture_size(path)
        if height * width > MAX_MAP_PIXELS:
            raise LabelError(
                f"{path}: {width}x{height} pixels; the limit of this page is {MAX_MAP_PIXELS >> 20} Mpx",
                "crop the map or scale it down",
            )
        return ids_of_colours(read_picture(path)) if encoding == COLOURS else (read_label(path, encoding), "")
    except DgkitError as error:
        message = error.message.replace(str(path), shown_name)
        raise type(error)(message, error.hint.replace(str(path), shown_name)) from error
    finally:
        path.unlink(missing_ok=True)


def _content(data: object) -> bytes:
    if not isinstance(data, str) or len(data) > MAX_UPLOAD * 4 // 3 + 4:
        raise InputError(f"the file has more than {MAX_UPLOAD >> 20} MiB", "upload a smaller label map")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError("the upload is damaged", "upload the file again") from error


def ids_of_colours(image: np.ndarray) -> tuple[np.ndarray, str]:
    """Return the train ids, uint8 [H, W], of uint8 [H, W, 3] in the Cityscapes colours, and a note.

    A pixel of another colour gets the class of the nearest palette colour (Euclidean distance in RGB);
    the note says how many did. Raises LabelError if more than :data:`MOST_INEXACT` of the pixels are of other colours.
    """
    red, green, blue = (image[..., channel].astype(np.int32) for channel in range(3))
    keys = red << 16 | green << 8 | blue
    known = colour_encoding(COLOURS).colours or {}
    palette = np.array(list(known), np.int32)
    ids = np.array(list(known.values()), np.uint8)
    table = np.zeros(1 << 24, np.uint8)
    exact = np.zeros(1 << 24, bool)
    own = palette @ (1 << 16, 1 << 8, 1)
    table[own], exact[own] = ids, True
    other = ~exact[keys]
    share = float(other.mean())
    if share > MOST_INEXACT:
        raise LabelError(
            f"{share:.0%} of the pixels have none of the Cityscapes colours: this is a photograph or a map in other "
            "colours",
            "upload a label map: a PNG of ids, or a picture in the Cityscapes colours",
        )
    if not share:
        return table[keys], ""
    for colours in np.array_split(found := np.unique(keys[other]), len(found) // _CHUNK + 1):
        rgb = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1)
        distance = ((rgb[:, None] - palette[None]) ** 2).sum(axis=2)
        table[colours] = ids[distance.argmin(axis=1)]
    return table[keys], f"{max(share, 0.0001):.2%} of the pixels had no Cityscapes colour; each got the nearest one"
