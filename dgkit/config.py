"""Configuration: one frozen pydantic class per command, filled from a YAML recipe, ``--set a.b=c`` and flags.

A default is stated in the class and nowhere else. Later sources win: recipe < ``--set`` < flags.
"""

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from dgkit.documents import DocumentError, parse_yaml, read_bytes
from dgkit.errors import InputError, UsageError, did_you_mean, one_line, shown
from dgkit.files import refuse_url

C = TypeVar("C", bound="Config")
_TEXTS = frozenset({"ray", "note", "name"})  # settings that are not paths and may be URLs
MAX_GROUPS = 20  # of a key of --set, a.b.c


@dataclass(frozen=True)
class Metavar:
    """Placeholder that ``--help`` shows for the value of a field: ``labels: Annotated[Path, Metavar("DIR")]``."""

    text: str


@dataclass(frozen=True)
class Repeated:
    """Flag of a field whose option is repeatable: ``styles: Annotated[..., Repeated("style")]`` is ``--style``."""

    flag: str


class Config(BaseModel):
    """Base of all config classes: frozen; unknown keys are errors; a string below a field is its description."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        use_attribute_docstrings=True,
        coerce_numbers_to_str=True,
        allow_inf_nan=False,
    )


def flag_of(name: str, field: FieldInfo) -> str:
    """Return the command-line flag of a field."""
    own = (item.flag for item in field.metadata if isinstance(item, Repeated))
    return f"--{next(own, name.replace('_', '-'))}"


def load_config(
    cls: type[C], recipe: Path | str | Mapping[str, Any] | None = None, sets: Sequence[str] = (), /, **flags: Any
) -> C:
    """Return a ``cls`` built from a YAML recipe, then ``sets`` (each ``"a.b=value"``, value in YAML), then ``flags``.

    ``recipe`` is a file or its content. A flag that is ``None`` was not given and changes nothing. Values that come
    from a file are passed as ``recipe``, never as flags. Raises
    :class:`InputError` if the recipe cannot be read, and :class:`UsageError` for an unknown key (with the known ones)
    or a value that is not allowed, such as a URL in place of a path.
    """
    values = dict(recipe) if isinstance(recipe, Mapping) else read_recipe(recipe) if recipe is not None else {}
    for text in sets:
        _assign(values, text)
    given = {key: value for key, value in flags.items() if value is not None}
    for key, value in given.items():
        old = values.get(key)
        values[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    _refuse_urls(values)
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise _usage_error(cls, error) from error


def _refuse_urls(values: Mapping[str, Any]) -> None:
    """Raise UsageError for a URL as a value at any depth, except of the keys in :data:`_TEXTS`."""
    seen: set[int] = set()  # aliases of YAML: the same object in many places
    left: list[Any] = [value for key, value in values.items() if key not in _TEXTS]
    while left:
        value = left.pop()
        if isinstance(value, str | Path):
            refuse_url(value)
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            left.extend(value.values() if isinstance(value, Mapping) else value)


def read_recipe(path: Path | str) -> dict[str, Any]:
    """Return the mapping in a YAML file, empty for an empty file. Raises :class:`InputError`."""
    path = Path(path)
    try:
        content = parse_yaml(read_bytes(path).decode("utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the recipe {path}: {error.strerror}", "check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a YAML recipe: it is not UTF-8 text", "pass a .yaml file") from error
    except DocumentError as error:
        raise InputError(f"{path} is not valid YAML: {error}", "write one 'key: value' per line") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(
            f"{path} contains a {type(content).__name__}, expected a mapping of keys to values",
            "write one 'key: value' per line",
        )
    return content


def dump_config(config: Config) -> str:
    """Return all resolved values as YAML, in field order; :func:`load_config` reads them back to an equal object."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def _assign(values: dict[str, Any], text: str) -> None:
    key, equals, raw = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts) or len(parts) > MAX_GROUPS:
        raise UsageError(f"--set {shown(text)} is not an assignment", "write --set key=value, or --set group.key=value")
    try:
        value = parse_yaml(raw)
    except DocumentError as error:
        raise UsageError(
            f"--set {shown(text)}: the value is not valid YAML: {error}", "quote it: --set 'key=\"value\"'"
        ) from error
    node = values
    for part in parts[:-1]:
        child = node.get(part)
        node[part] = dict(child) if isinstance(child, dict) else {}
        node = node[part]
    node[parts[-1]] = value


def _merged(low: dict[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(low)
    for key, value in high.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


_BOUNDS = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
_KINDS = {
    "bool_parsing": "true or false", "bool_type": "true or false", "int_parsing": "a whole number",
    "int_type": "a whole number", "int_from_float": "a whole number", "float_parsing": "a number",
    "float_type": "a number", "finite_number": "a finite number",
}  # fmt: skip


def _usage_error(cls: type[BaseModel], error: ValidationError) -> UsageError:
    problems = error.errors(include_url=False)
    first = problems[0]
    location = tuple(first["loc"])
    name = one_line(".".join(str(part) for part in location), 100) or cls.__name__
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if first["type"] == "extra_forbidden":
        keys = sorted(_fields_at(cls, location[:-1]))
        hint = did_you_mean(str(location[-1]), keys, "remove it")
        return UsageError(f"unknown key {name!r}, allowed: {', '.join(keys)}{more}", hint)
    if first["type"] == "missing":
        return UsageError(f"{name} is required{more}", f"add --set {name}=VALUE or its flag")
    reason = one_line(first["msg"], 500).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    reason = reason[:1].lower() + reason[1:]
    return UsageError(f"{name}={shown(first['input'])} is not allowed: {reason}{more}", _advice(cls, location, first))


def _advice(cls: type[BaseModel], location: tuple[Any, ...], problem: Mapping[str, Any]) -> str:
    """Return the values that are allowed instead: those that the type lists, its limits, or what the field is."""
    name, limits = location[-1] if location else "", problem.get("ctx", {})
    if not location:
        return "change one of the settings that this concerns"
    if "expected" in limits:
        return f"use {limits['expected']}"
    bounds = [f"{text} {limits[key]}" for key, text in _BOUNDS.items() if key in limits]
    if bounds:
        return f"use a value {' and '.join(bounds)}"
    field = cls.model_fields.get(str(location[0])) if len(location) == 1 else None
    if field is not None and field.description:
        return f"{name}: {field.description}"
    return f"use {_KINDS.get(problem['type'], f'another value; --help and the documentation describe {name}')}"


def _fields_at(cls: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Return the field names of the model at ``location`` (keys of nested models; list indices are skipped)."""
    model = cls
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in typing.get_args(annotation) if (found := _model_in(arg))), None)
