"""Label maps in colours: each class has one or more RGB values instead of an id."""

import csv
import functools
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dgkit.config import read_recipe
from dgkit.errors import InputError, LabelError
from dgkit.files import file_stamp, read_file
from dgkit.labels import IGNORE, Encoding
from dgkit.taxonomies import CITYSCAPES19, Taxonomy, class_key

COLOURS = "cityscapes_colours"
OWN_COLOURS = "colours"  # those of a taxonomy other than that of Cityscapes
OWN = "colours@"  # before the name of a file with the colours of each class
MAX_BYTES = 1 << 20  # of such a file
_UNKNOWN = 254  # entry of a colour that no class has; classes are at most 0 to 253
_SHOWN = 4  # unknown colours in an error

Colour = tuple[int, int, int]

# Classes of Cityscapes that have a colour and are ignored. Licence plates have the colour of cars, pole groups that of
# poles.
_IGNORED: tuple[Colour, ...] = (
    (0, 0, 0), (111, 74, 0), (81, 0, 81), (250, 170, 160), (230, 150, 140), (180, 165, 180), (150, 100, 100),
    (150, 120, 90), (0, 0, 90), (0, 0, 110),
)  # fmt: skip


def colours_name(taxonomy: Taxonomy = CITYSCAPES19) -> str:
    """Return the name of the encoding by the colours of a taxonomy, of which there are no others by name."""
    return COLOURS if taxonomy.is_default else OWN_COLOURS


def is_colours(name: str, taxonomy: Taxonomy = CITYSCAPES19) -> bool:
    """Return whether ``name`` is that of an encoding by colours, :func:`colours_name` or ``"colours@FILE"``."""
    return name == colours_name(taxonomy) or name.startswith(OWN)


def colour_encoding(name: str, taxonomy: Taxonomy = CITYSCAPES19) -> Encoding:
    """Return an encoding by colours, whose ids are train ids once :func:`decode_colours` has read them.

    ``"colours@FILE"`` reads the colours from a CSV file with lines ``class,red,green,blue``, or a YAML file with lines
    ``class: [red, green, blue]``, or a list of such values for several colours. A class is a name of ``taxonomy``, a
    train id, or ``ignore``. A file that has changed is read again. Raises InputError for a file that is not such a
    table, or that has one colour for two classes.
    """
    return _encoding(name, file_stamp(name.removeprefix(OWN)), taxonomy)


@functools.lru_cache(maxsize=8)
def _encoding(name: str, stamp: tuple[int, int], taxonomy: Taxonomy) -> Encoding:
    """Return an encoding by colours; ``stamp`` is that of its file, of which each version is read once."""
    ids = taxonomy.systems["train_ids"].table
    if name == colours_name(taxonomy):
        colours: dict[Colour, int] = {one.colour: train_id for train_id, one in enumerate(taxonomy.classes)}
        colours |= dict.fromkeys(_IGNORED if taxonomy.is_default else _IGNORED[:1], IGNORE)
        whose = "Cityscapes and GTA5" if taxonomy.is_default else taxonomy.name
        return Encoding(name, ids, f"colours of {whose}", colours=colours)
    path = Path(name.removeprefix(OWN))
    colours = _read_csv(path, taxonomy) if path.suffix.lower() == ".csv" else _read_yaml(path, taxonomy)
    if not colours:
        raise InputError(f"{path} has no colours", "write one 'road,128,64,128' per line")
    return Encoding(name, ids, f"colours of {path.name}", colours=colours)


def decode_colours(image: np.ndarray, system: Encoding, source: Path) -> np.ndarray:
    """Return the train ids, uint8 [H, W], of an image of colours, uint8 [H, W, 3] RGB.

    Raises LabelError with the colours that no class has.
    """
    codes = (image[..., 0].astype(np.uint32) << 16) | (image[..., 1].astype(np.uint32) << 8) | image[..., 2]
    ids: np.ndarray = _lookup(tuple((system.colours or {}).items()))[codes]
    unknown, counts = np.unique(codes[ids == _UNKNOWN], return_counts=True)
    if len(unknown):
        most = unknown[np.argsort(-counts, kind="stable")][:_SHOWN]
        text = ", ".join(f"({code >> 16}, {code >> 8 & 255}, {code & 255})" for code in most.tolist())
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        raise LabelError(
            f"{source}: {counts.sum() / codes.size:.1%} of the pixels have colours of no class in {system.name}: "
            f"{text}{more}",
            "give the colours of each class: --encoding colours@FILE.csv, with lines such as road,128,64,128",
        )
    return ids


@functools.lru_cache(maxsize=2)
def _lookup(colours: tuple[tuple[Colour, int], ...]) -> np.ndarray:
    """Return the train id of each of the 2**24 colours, uint8."""
    table = np.full(1 << 24, _UNKNOWN, np.uint8)
    for (red, green, blue), train_id in colours:
        table[red << 16 | green << 8 | blue] = train_id
    return table


def _read_csv(path: Path, taxonomy: Taxonomy) -> dict[Colour, int]:
    try:
        lines = list(csv.reader(io.StringIO(read_file(path, MAX_BYTES).decode("utf-8-sig"))))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(
            f"cannot read the colours in {path}: {error}", "give a CSV file: class,red,green,blue"
        ) from error
    rows = [line for line in lines if any(cell.strip() for cell in line)]
    if rows and rows[0][0].strip().lower() in ("class", "name"):
        rows = rows[1:]
    return _table(path, ((name, cells) for name, *cells in rows), taxonomy)


def _read_yaml(path: Path, taxonomy: Taxonomy) -> dict[Colour, int]:
    rows: list[tuple[Any, Any]] = []
    for name, value in read_recipe(path).items():
        several = isinstance(value, list) and all(isinstance(one, list) for one in value)
        rows += [(name, colour) for colour in (value if several else [value])]
    return _table(path, rows, taxonomy)


def _table(path: Path, rows: Iterable[tuple[Any, Any]], taxonomy: Taxonomy) -> dict[Colour, int]:
    found: dict[Colour, int] = {}
    for name, values in rows:
        colour, train_id = _colour(path, values), _train_id(path, name, taxonomy)
        if found.setdefault(colour, train_id) != train_id:
            raise InputError(f"{path}: the colour {colour} belongs to two classes", "keep one of the two lines")
    return found


def _train_id(path: Path, name: Any, taxonomy: Taxonomy) -> int:
    text = class_key(str(name).strip())
    keys = [class_key(known) for known in taxonomy.names]
    if text in ("ignore", "void", str(IGNORE)):
        return IGNORE
    if text in keys:
        return keys.index(text)
    if text.isdecimal() and len(text) < 4 and int(text) < taxonomy.size:
        return int(text)
    raise InputError(
        f"{path}: unknown class {str(name)[:100]!r}; known classes: {', '.join(taxonomy.names)}, train ids 0 to "
        f"{taxonomy.size - 1}, and ignore",
        "rename the class",
    )


def _colour(path: Path, values: Any) -> Colour:
    try:
        if not isinstance(values, list) or any(isinstance(value, float | bool) for value in values):
            raise ValueError
        red, green, blue = map(int, values)
    except (TypeError, ValueError):
        red = green = blue = -1
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise InputError(f"{path}: {str(values)[:100]} is not a colour", "write three numbers from 0 to 255")
    return red, green, blue
