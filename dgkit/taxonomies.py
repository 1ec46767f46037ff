"""Taxonomies: the classes of label maps, with their names, colours and the ids that stand for them in files.

A label map in memory holds the numbers of its classes, in the order of its taxonomy, and 255 for ignored pixels. These
are the train ids of the 19 classes of Cityscapes, which every command uses unless the user gives other classes.
"""

import functools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, model_validator

from dgkit.config import Config, load_config, read_recipe
from dgkit.errors import InputError, UsageError, did_you_mean, shown
from dgkit.files import user_path
from dgkit.labels import CAMVID_CLASSES, CLASSES, ENCODINGS, FORBIDDEN, PALETTE, Encoding, id_table

MAX_CLASSES = 254  # ids 0 to 253; of the uint8 values, 255 is ignore and one more marks what no class has
IGNORED = "ignore"  # in place of a class in an id system or a table from another taxonomy
TRAIN_IDS, OWN_IDS = "train_ids", "ids"
_RESERVED = (IGNORED, "ignored", "void")
_SYSTEMS = (TRAIN_IDS, OWN_IDS, "colours")  # that every taxonomy has
_NAME = r"^[A-Za-z0-9][A-Za-z0-9 _.-]*$"
_RENAME = "give it another name"
_LISTED = 6  # names in an error

Byte = Annotated[int, Field(ge=0, le=255)]
Id = Annotated[int, Field(ge=0, le=254)]


class TaxonomyClass(Config):
    """One class."""

    name: str = Field(min_length=1, max_length=60, pattern=_NAME)
    """name in reports, tables and side-cars"""
    colour: tuple[Byte, Byte, Byte]
    """red, green and blue, 0 to 255"""
    ids: tuple[Id, ...] = ()
    """ids in label files; default: the number of the class"""
    prompt: str | None = Field(None, max_length=200)
    """name in prompts; default: name"""
    thing: bool = False
    """whether it is countable, such as a car"""
    small: bool = False
    """whether it is thin or distant, for the mean over small classes"""


class Taxonomy(Config):
    """The classes of label maps, in the order of their numbers; see :func:`find_taxonomy`."""

    name: str = Field(min_length=1, max_length=60, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """name in records"""
    classes: tuple[TaxonomyClass, ...] = Field(min_length=1, max_length=MAX_CLASSES)
    """the classes; the number of a class is its place, from 0"""
    ignore: tuple[Id, ...] = ()
    """ids in label files that are ignored, in addition to 255"""
    encodings: dict[str, dict[str, tuple[Id, ...]]] = Field({})
    """other id systems of label files by name: the ids of each class, and of "ignore" """
    map: dict[str, dict[str, str]] = Field({})
    """tables from the built-in taxonomies by name: the class, or "ignore", for each of their classes"""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _refuse_repeated("the name", (class_key(one.name) for one in self.classes))
        _refuse_repeated("the colour", (one.colour for one in self.classes))
        for one in self.classes:
            if class_key(one.name) in map(class_key, _RESERVED):
                raise UsageError(f"class {one.name!r} has one of the reserved names {', '.join(_RESERVED)}", _RENAME)
            if one.colour == (0, 0, 0):
                raise UsageError(f"class {one.name!r} is black, as ignored pixels are", "give it another colour")
        wrong = next((name for name in self.encodings if name in _SYSTEMS or set(name) & set("/@")), None)
        if wrong is not None:
            raise UsageError(
                f"encodings: {shown(wrong)} is reserved; reserved are {', '.join(_SYSTEMS)}, and names with / or @",
                _RENAME,
            )
        for name, ids in {OWN_IDS: self._own_ids(), **self.encodings}.items():
            self._check_names(f"encodings.{name}", ids)
            _refuse_repeated(f"in encoding {name} the id", (number for numbers in ids.values() for number in numbers))
        for source, table in self.map.items():
            self._check_map(source, table)
        return self

    def _own_ids(self) -> dict[str, tuple[int, ...]]:
        own = {one.name: one.ids or (number,) for number, one in enumerate(self.classes)}
        return {**own, IGNORED: self.ignore}

    def _check_names(self, where: str, names: Iterable[str]) -> None:
        unknown = next((name for name in names if name != IGNORED and name not in self.names), None)
        if unknown is not None:
            known = ", ".join((*self.names, IGNORED))
            raise UsageError(
                f"{where}: unknown class {shown(unknown)}; known: {known}",
                did_you_mean(str(unknown), self.names, "use one of these names"),
            )

    def _check_map(self, source: str, table: Mapping[str, str]) -> None:
        if source not in BUILT_IN:
            raise UsageError(
                f"map: unknown taxonomy {shown(source)}; known: {', '.join(BUILT_IN)}",
                did_you_mean(str(source), BUILT_IN, "use one of these"),
            )
        BUILT_IN[source]._check_names(f"map.{source}", table)
        self._check_names(f"map.{source}", table.values())

    def __hash__(self) -> int:
        return hash(self.text)

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_text, (self.text,)

    @functools.cached_property
    def text(self) -> str:
        """JSON of :meth:`document`, equal for equal taxonomies."""
        return json.dumps(self.document(), sort_keys=True)

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(one.name for one in self.classes)

    @functools.cached_property
    def prompt_names(self) -> tuple[str, ...]:
        """Names of the classes in prompts."""
        return tuple(one.name if one.prompt is None else one.prompt for one in self.classes)

    @property
    def size(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def channels(self) -> int:
        """Channels of a one-hot condition: one per class, and the last for ignored pixels."""
        return self.size + 1

    @functools.cached_property
    def colours(self) -> np.ndarray:
        """Colour of each class number, uint8 [256,3] RGB, black for the others; read-only."""
        table = np.zeros((256, 3), np.uint8)
        table[: self.size] = [one.colour for one in self.classes]
        table.setflags(write=False)
        return table

    @property
    def palette(self) -> np.ndarray:
        """Colours of the classes, uint8 [K,3] RGB; read-only."""
        return self.colours[: self.size]

    @property
    def things(self) -> tuple[int, ...]:
        """Numbers of the classes of countable objects."""
        return tuple(number for number, one in enumerate(self.classes) if one.thing)

    @property
    def small_names(self) -> tuple[str, ...]:
        """Names of the thin or distant classes."""
        return tuple(one.name for one in self.classes if one.small)

    @functools.cached_property
    def systems(self) -> Mapping[str, Encoding]:
        """Id systems of label files by name; the first is that of class numbers."""
        if self.is_default:
            return ENCODINGS
        numbers = {number: number for number in range(self.size)}
        found = [Encoding(TRAIN_IDS, id_table(numbers, (self.size,)), f"class numbers of {self.name}", ("dgkit",))]
        stated = {OWN_IDS: self._own_ids()} if self.ignore or any(one.ids for one in self.classes) else {}
        for name, ids in {**stated, **self.encodings}.items():
            pairs = {number: self.names.index(key) for key in ids if key != IGNORED for number in ids[key]}
            found.append(Encoding(name, id_table(pairs, ids.get(IGNORED, ())), f"ids {name!r} of {self.name}"))
        return {system.name: system for system in found}

    @property
    def usual_encoding(self) -> str:
        """Name of the id system of files of which nothing else is known."""
        return OWN_IDS if not self.is_default and OWN_IDS in self.systems else TRAIN_IDS

    @property
    def is_default(self) -> bool:
        """Whether these are the classes of Cityscapes, which records do not state."""
        return self.name == DEFAULT

    def document(self) -> str | dict[str, Any]:
        """Return what records keep: the name of a built-in taxonomy, otherwise all of it as plain values."""
        return self.name if self.name in BUILT_IN else self.model_dump(mode="json", exclude_defaults=True)

    def recorded(self) -> str | dict[str, Any] | None:
        """Return what settings keep: :meth:`document`, or None for the default."""
        return None if self.is_default else self.document()

    def table_from(self, source: "Taxonomy") -> np.ndarray:
        """Return the class number for each class number of ``source``, int16 [256], with 255 for ignored ones.

        Raises InputError that names the difference if there is no table for ``source``.
        """
        if source == self:
            return id_table({number: number for number in range(self.size)}, range(256))
        if source.name not in self.map:
            raise mixed(self, source, f"label maps of {source.name}")
        table = self.map[source.name]
        pairs = {number: self.names.index(table[name]) for number, name in enumerate(source.names)
                 if table.get(name, IGNORED) != IGNORED}  # fmt: skip
        return id_table(pairs, range(256))

    def converted(self, system: Encoding, source: "Taxonomy") -> Encoding:
        """Return an id system of ``source`` as one of this taxonomy. Raises as :meth:`table_from`."""
        table = self.table_from(source)
        ids = np.where(system.table == FORBIDDEN, FORBIDDEN, table[system.table & 255])
        colours = system.colours and {colour: int(table[number]) for colour, number in system.colours.items()}
        ids.setflags(write=False)
        text = f"{system.description} as classes of {self.name}"
        return Encoding(qualified(source, system.name), ids, text, system.datasets, system.channel, colours)


def qualified(source: Taxonomy, encoding: str) -> str:
    """Return the name of an id system of ``source`` among those of another taxonomy."""
    return f"{source.name}/{encoding}"


def difference(first: Taxonomy, second: Taxonomy) -> str:
    """Return in which classes two taxonomies differ, in one line."""
    lost = [name for name in first.names if name not in second.names]
    added = [name for name in second.names if name not in first.names]
    parts = [f"only {one.name} has {_listed(names)}" for one, names in ((first, lost), (second, added)) if names]
    if not parts:
        parts = [f"the same names, but another {'order' if first.names != second.names else 'definition'}"]
    return f"{first.name} has {first.size} classes, {second.name} {second.size}: {'; '.join(parts)}"


def mixed(wanted: Taxonomy, found: Taxonomy, what: str) -> InputError:
    """Return the error for classes that differ from those of the command; ``what`` names what has them."""
    mappable = found.name in BUILT_IN and wanted.name not in BUILT_IN
    table = f", or add a table 'map: {{{found.name}: ...}}' to the file of {wanted.name}" if mappable else ""
    return InputError(
        f"{what} cannot be used with the classes of {wanted.name}: {difference(wanted, found)}",
        f"use label maps, models and segmenters of one taxonomy{table}",
    )


def find_taxonomy(value: "str | Path | Mapping[str, Any] | Taxonomy | None" = None) -> Taxonomy:
    """Return a taxonomy by the name of a built-in one, a YAML file, or its content; None is the default.

    Raises UsageError for an unknown name, InputError for a file or content that is not a taxonomy.
    """
    if isinstance(value, Taxonomy):
        return value
    if value is None or value in (DEFAULT, ""):
        return CITYSCAPES19
    if isinstance(value, Mapping):
        return _checked(value, f"taxonomy {shown(value.get('name'), 60)}")
    if str(value) in BUILT_IN:
        return BUILT_IN[str(value)]
    path = user_path(value)
    if not path.exists() and path.suffix not in (".yaml", ".yml"):
        raise UsageError(
            f"unknown taxonomy {shown(str(value))}; known: {', '.join(BUILT_IN)}, and YAML files",
            did_you_mean(str(value), BUILT_IN, "use for example --taxonomy camvid11 or --taxonomy FILE.yaml"),
        )
    try:
        return _checked(read_recipe(path), str(path))
    except ValueError as error:  # a NUL character in the name
        raise InputError(f"{shown(str(value))} is not a file name: {error}", "check the path") from error


def _checked(values: Mapping[str, Any], where: str) -> Taxonomy:
    classes = values.get("classes")
    if not isinstance(classes, list) or not 0 < len(classes) <= MAX_CLASSES:
        count = f"{len(classes)} classes" if isinstance(classes, list) else "no list 'classes'"
        raise InputError(
            f"{where} has {count}; allowed are 1 to {MAX_CLASSES} classes",
            "write 'classes:' and below it lines such as '- {name: road, colour: [128, 64, 128]}'",
        )
    try:
        found = load_config(Taxonomy, values)
    except UsageError as error:
        raise InputError(f"{where} is not a taxonomy: {error.message}", error.hint) from error
    if found.name in BUILT_IN and found != BUILT_IN[found.name]:
        raise InputError(f"{where} has the name of the built-in taxonomy {found.name}", _RENAME)
    return found


@functools.lru_cache(maxsize=16)
def _from_text(text: str) -> Taxonomy:
    return find_taxonomy(json.loads(text))


def _refuse_repeated(what: str, values: Iterable[Any]) -> None:
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise UsageError(f"{what} {shown(repeated[0])} is that of two classes", "change it for one of them")


def class_key(name: str) -> str:
    """Return a class name without case, blanks, hyphens and underscores, in which spellings differ."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")


DEFAULT = "cityscapes19"
BUILT_IN: dict[str, Taxonomy] = {}

_THINGS = {"traffic light", "traffic sign", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"}
# Thin or distant classes, which generators and segmenters lose first.
_SMALL = {"pole", "traffic light", "traffic sign", "person", "rider", "motorcycle", "bicycle"}


def _class(name: str, colour: Iterable[int], prompt: str | None = None) -> dict[str, Any]:
    known = prompt or name
    return {"name": name, "colour": tuple(colour), "prompt": prompt,
            "thing": known in _THINGS, "small": known in _SMALL}  # fmt: skip


CITYSCAPES19 = BUILT_IN[DEFAULT] = Taxonomy.model_validate(
    {"name": DEFAULT, "classes": [_class(*row) for row in zip(CLASSES, PALETTE.tolist(), strict=True)]}
)

# CamVid in its 11-class release, with the colours of SegNet; prompts use the words of Cityscapes, which models for
# street scenes know. Of the 19 classes, wall, terrain, traffic light and the large vehicles have no counterpart.
CAMVID11 = BUILT_IN["camvid11"] = Taxonomy.model_validate(
    {
        "name": "camvid11",
        "classes": [_class(name, colour, CLASSES[number]) for (name, colour), number in CAMVID_CLASSES.items()],
        "encodings": {"camvid": {**{name: (i,) for i, (name, _) in enumerate(CAMVID_CLASSES)}, IGNORED: (11,)}},
        "map": {
            DEFAULT: {**{CLASSES[number]: name for (name, _), number in CAMVID_CLASSES.items()}, "rider": "bicyclist"}
        },
    }
)
