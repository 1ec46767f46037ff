"""Label maps: read any known id system as train ids, resize, colour and write them.

The look-up table of an id system is applied in :func:`read_label` and nowhere else. The arrays that it returns are
read-only: published data sets hold 19 instead of 255 because a helper edited its argument.
"""

import functools
import io
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from dgkit.data.colour_maps import COLOURS, colour_encoding, colours_name, decode_colours, is_colours
from dgkit.data.pictures import EXIF, ignores_exif, png_orientation
from dgkit.data.png import SIGNATURE, check_png
from dgkit.errors import InputError, LabelError, UsageError, did_you_mean
from dgkit.files import atomic_write, file_stamp, open_regular, parse_json, read_file
from dgkit.labels import FORBIDDEN, IGNORE, Encoding, mapillary_by_name
from dgkit.taxonomies import BUILT_IN, CITYSCAPES19, Taxonomy, qualified

MAX_PIXELS = 64 * 1024 * 1024  # larger maps are refused before decoding, since a small file can unpack to gigabytes
MAX_BYTES = 512 * 1024 * 1024  # of a file
_GREY, _PALETTED = 0, 3
_COLOURS = {2: "an RGB", 4: "a grey and alpha", 6: "an RGBA"}


def read_label(path: Path | str, encoding: str = "train_ids", taxonomy: Taxonomy = CITYSCAPES19) -> np.ndarray:
    """Read a PNG of ids in ``encoding`` (see :func:`find_encoding`) as class numbers of ``taxonomy``, its train ids.

    Accepted are 8-bit palette and grey files, 16-bit grey files, and (SYNTHIA) files with several channels. Of palette
    files the indices are read, not the colours.

    Returns uint8 [H, W], values 0..18 (of other taxonomies 0..K-1) or 255 (ignore), read-only. Raises LabelError naming
    the file if it is not such a map, UsageError for an unknown encoding.
    """
    return encode(read_ids(path, encoding, taxonomy), encoding, path, taxonomy)


def read_ids(path: Path | str, encoding: str = "train_ids", taxonomy: Taxonomy = CITYSCAPES19) -> np.ndarray:
    """Read the ids in a label map as they are in the file, integer [H, W]. Raises as :func:`read_label`."""
    path = Path(path)
    system = find_encoding(encoding, taxonomy)
    data = _read_bytes(path)
    width, height, depth, colour = _header(path, data)
    if width * height > MAX_PIXELS:
        raise LabelError(
            f"{path}: {width}x{height} pixels, {width * height / 2**20:.0f} Mpx; the limit is {MAX_PIXELS >> 20} Mpx",
            "crop the map or scale it down",
        )
    if colour in _COLOURS and system.channel is None and system.colours is None:
        raise LabelError(
            f"{path}: {_COLOURS[colour]} image, not a label map; label maps are single-channel PNGs of ids",
            "give the files that hold class ids (such as *_labelTrainIds.png), not the photographs; for maps in the "
            f"colours of Cityscapes add --encoding {COLOURS}, for other colours --encoding colours@FILE.csv",
        )
    orientation = png_orientation(data)
    if orientation != 1 and not ignores_exif():
        raise LabelError(
            f"{path}: its EXIF orientation {orientation} turns it in viewers, but label maps are read as stored",
            f"save it upright without EXIF data, or set {EXIF}=ignore if it fits the stored pixels of its photograph",
        )
    if colour == _GREY and depth < 8:
        raise LabelError(f"{path}: {depth}-bit grey PNG; label maps have 8 or 16 bits", "save the ids as 8-bit grey")
    return _decode(path, data, depth, colour, system)


def encode(
    raw: np.ndarray,
    encoding: str = "train_ids",
    source: Path | str = "label map",
    taxonomy: Taxonomy = CITYSCAPES19,
) -> np.ndarray:
    """Convert an integer array [H, W] of ids in ``encoding`` to train ids; ``source`` names it in errors.

    Returns uint8 [H, W], values of ``taxonomy`` or 255, read-only; ``raw`` is not changed. Raises LabelError with the
    ids found, the ids allowed, and the encoding that they fit.
    """
    system = find_encoding(encoding, taxonomy)
    if raw.ndim != 2 or raw.size == 0 or raw.dtype.kind not in "iub":
        raise LabelError(
            f"{source}: {raw.dtype} array of shape {raw.shape}; a label map is a 2-D array (height, width), best of "
            "uint8",
            "pass one id per pixel",
        )
    if raw.dtype != np.uint8:
        if raw.min() < 0 or raw.max() > 255:
            raise _unknown_ids(np.unique(raw).tolist(), system, source, taxonomy)
        raw = raw.astype(np.uint8)
    mapped = system.table[raw]
    if mapped.min() == FORBIDDEN:
        raise _unknown_ids(np.unique(raw).tolist(), system, source, taxonomy)
    return _frozen(mapped.astype(np.uint8))


def resize_label(label: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a map [H, W] to [height, width]; each new pixel is the one under its centre, so ids are never mixed.

    The result has the same dtype and is read-only. Raises UsageError for a size below 1.
    """
    if height < 1 or width < 1:
        raise UsageError(f"cannot resize a label map to {width}x{height}", "width and height must be at least 1")
    old_height, old_width = label.shape
    if (old_height, old_width) == (height, width):
        return _frozen(label.copy())
    # Integer arithmetic: floor((i + 1/2) * old / new) without rounding errors at large sizes.
    rows = (2 * np.arange(height) + 1) * old_height // (2 * height)
    columns = (2 * np.arange(width) + 1) * old_width // (2 * width)
    return _frozen(label[rows[:, None], columns])


def colorize(label: np.ndarray, taxonomy: Taxonomy = CITYSCAPES19) -> np.ndarray:
    """Return the class colours of a map [H, W] of train ids, uint8 [H, W, 3] RGB; ignore is black."""
    _check_train_ids(label, taxonomy)
    return taxonomy.colours[label]


def write_label(path: Path | str, label: np.ndarray, taxonomy: Taxonomy = CITYSCAPES19) -> None:
    """Write train ids, uint8 [H, W] of class numbers and 255, as an 8-bit grey PNG that is complete or absent.

    Raises LabelError for any other array, OutputError if the file cannot be written.
    """
    _check_train_ids(label, taxonomy)
    if ((label >= taxonomy.size) & (label != IGNORE)).any():
        raise LabelError(f"{path}: the label map to be written holds id {taxonomy.size}", f"write {IGNORE} for ignore")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(label)).save(buffer, "PNG")
    atomic_write(path, buffer.getvalue())


def find_encoding(name: str, taxonomy: Taxonomy = CITYSCAPES19) -> Encoding:
    """Return an id system by its name in ``taxonomy.systems``, or by ``"mapillary_b@CONFIG.json"``.

    The second form reads the class names of any version of Mapillary Vistas from its config file. Encodings by colours
    are those of :func:`~dgkit.data.colour_maps.colour_encoding`. An id system of another built-in taxonomy is converted
    by the table of ``taxonomy``; if both have its name, it is ``"OTHER/NAME"``. Raises UsageError for an unknown name,
    InputError for a config file that cannot be used or a taxonomy without such a table.
    """
    if (found := _own_encoding(name, taxonomy) or _other_encoding(name, taxonomy)) is not None:
        return found
    known = (*taxonomy.systems, colours_name(taxonomy))
    raise UsageError(
        f"unknown encoding {name!r}; known encodings: {', '.join(known)}, and colours@FILE.csv",
        did_you_mean(name, known, "use one of these"),
    )


def _own_encoding(name: str, taxonomy: Taxonomy) -> Encoding | None:
    if name in taxonomy.systems:
        return taxonomy.systems[name]
    if is_colours(name, taxonomy):
        return colour_encoding(name, taxonomy)
    family, at, config = name.partition("@")
    is_mapillary = taxonomy.is_default and family == "mapillary_b" and at
    return _mapillary_encoding(config, file_stamp(config)) if is_mapillary else None


def _other_encoding(name: str, taxonomy: Taxonomy) -> Encoding | None:
    """Return an id system of a built-in taxonomy that the table of ``taxonomy`` converts; None if none has it."""
    for source in sorted(BUILT_IN.values(), key=lambda source: source.name not in taxonomy.map):
        found = None if source == taxonomy else _own_encoding(name.removeprefix(qualified(source, "")), source)
        if found is not None:
            return taxonomy.converted(found, source)
    return None


def label_size(path: Path | str) -> tuple[int, int]:
    """Return (height, width) of a PNG in pixels, read from its header. Raises LabelError."""
    path = Path(path)
    width, height, _, _ = _header(path, _read_bytes(path, 64))
    return height, width


@functools.lru_cache(maxsize=8)
def _mapillary_encoding(config: str, stamp: tuple[int, int]) -> Encoding:
    """Return the encoding of a config; ``stamp`` is that of the file, of which each version is read once."""
    try:
        labels = parse_json(read_file(config))["labels"]
        names = [str(entry.get("readable") or entry["name"]) for entry in labels]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"cannot read class names from {config}: {type(error).__name__}: {error}",
            "give the config.json that comes with Mapillary Vistas",
        ) from error
    if not 0 < len(names) <= IGNORE:
        raise InputError(f"{config} lists {len(names)} classes; allowed are 1 to {IGNORE}", "check the file")
    description = f"Mapillary Vistas ids 0..{len(names) - 1}, mapping B (by name)"
    return Encoding(f"mapillary_b@{config}", mapillary_by_name(names), description, ("mapillary_v2",))


def _read_bytes(path: Path, limit: int = -1) -> bytes:
    try:
        with open_regular(path, MAX_BYTES) as stream:
            data = stream.read(limit)
    except FileNotFoundError as error:
        raise LabelError(f"{path}: no such file", "check the path of the label map") from error
    except IsADirectoryError as error:
        raise LabelError(f"{path}: this is a folder, not a label map", "give the folder with --labels DIR") from error
    except PermissionError as error:
        raise LabelError(f"{path}: permission denied", f"make it readable: chmod u+r '{path}'") from error
    except OSError as error:
        raise LabelError(
            f"{path}: cannot be read ({error.strerror or error})", "check the disk and the path"
        ) from error
    if not data:
        raise LabelError(f"{path}: the file is empty", "copy or download it again")
    return data


def _header(path: Path, data: bytes) -> tuple[int, int, int, int]:
    """Return (width, height, bit depth, colour type) of PNG bytes."""
    if not data.startswith(SIGNATURE[: len(data)]):
        kind = _kind(data)
        raise LabelError(
            f"{path}: {kind}; label maps are PNG files of ids", "give label maps in a lossless format, as PNG"
        )
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise LabelError(f"{path}: the PNG is truncated in its header", "copy or download it again")
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if not width or not height:
        raise LabelError(f"{path}: the PNG states {width}x{height} pixels", "copy or download it again")
    return width, height, depth, colour


def _kind(data: bytes) -> str:
    known = ((b"\xff\xd8", "a JPEG"), (b"GIF8", "a GIF"), (b"BM", "a BMP"), (b"II*\0", "a TIFF"), (b"MM\0*", "a TIFF"))
    return next((name for magic, name in known if data.startswith(magic)), "not a PNG")


def _decode(path: Path, data: bytes, depth: int, colour: int, system: Encoding) -> np.ndarray:
    """Return the ids in the file, integer [H, W]."""
    try:
        check_png(data)
        if colour in _COLOURS and system.colours is None:
            return _decode_channel(data, system)
        # The size is below the one at which Pillow warns of a decompression bomb.
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            if system.colours is not None:
                colours = np.asarray(picture.convert("RGB"))
                if depth == 16 and not colours.any():
                    raise ValueError(
                        "all of its 16-bit values are below 256, so it would be black; save it with 8 bits"
                    )
                return decode_colours(colours, system, path)
            raw = np.asarray(picture)
        return raw.astype(np.uint16) if depth == 16 else raw
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise LabelError(f"{path}: the PNG is truncated or damaged ({error})", "copy or download it again") from error


def _decode_channel(data: bytes, system: Encoding) -> np.ndarray:
    import cv2

    # Pillow would reduce 16-bit colours to 8 bits.
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise ValueError("it cannot be decoded")
    assert system.channel is not None
    return picture if picture.ndim == 2 else picture[..., 2 - system.channel]  # OpenCV holds B, G, R


def _unknown_ids(found: list[int], system: Encoding, source: Path | str, taxonomy: Taxonomy) -> LabelError:
    allowed = set(system.allowed)
    unknown = [i for i in found if i not in allowed]
    fitting = [e for e in taxonomy.systems.values() if e is not system and set(found) <= set(e.allowed)]
    if fitting:
        best = fitting[0]
        options = " or ".join(f"--dataset {name}=DIR" for name in best.datasets)
        instead = f", or instead of --labels use {options}" if options else ""
        hint = f"these look like {best.description}; add --encoding {best.name}{instead}"
    elif taxonomy.is_default:
        hint = "no known id system has these ids; convert the maps to Cityscapes train ids (0..18, 255 = ignore)"
    else:
        hint = f"state in the file of {taxonomy.name} of which class these ids are, or list them under 'ignore'"
    return LabelError(
        f"{source}: unknown ids {ranges(unknown)} for {system.name}; found {ranges(found)}, "
        f"allowed {ranges(system.allowed)}",
        hint,
    )


def ranges(ids: Iterable[int], limit: int = 12) -> str:
    """Format ascending integers as short text such as ``0-18, 255``, with at most ``limit`` runs."""
    runs: list[list[int]] = []
    for i in ids:
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    text = [str(a) if a == b else f"{a}-{b}" for a, b in runs[:limit]]
    return ", ".join(text) + (", ..." if len(runs) > limit else "")


def _check_train_ids(label: np.ndarray, taxonomy: Taxonomy) -> None:
    if label.ndim != 2 or label.dtype != np.uint8 or label.size == 0:
        raise LabelError(
            f"a label map is uint8 [height, width], not {label.dtype} of shape {label.shape}",
            "read it with dgkit.data.labelmap.read_label",
        )
    bad = (label > taxonomy.size) & (label != IGNORE)
    if bad.any():
        raise _unknown_ids(np.unique(label).tolist(), taxonomy.systems["train_ids"], "label map", taxonomy)


def _frozen(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array
