"""Read configs of mmsegmentation as data, so that a downloaded file cannot run code."""

import ast
import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgkit.documents import read_bytes
from dgkit.errors import ModelError, UsageError, shown
from dgkit.optional import first_line

SCOPE = "mmseg"
_OWN = re.compile(r"dgkit(\.[a-z]\w*)+")  # not dgkit.__main__, which runs a command when it is imported
_DROPPED = ("init_cfg", "pretrained")  # how weights begin; those of the checkpoint replace them
_FILE = re.compile(r"[/\\]|\.[A-Za-z]\w*$")
MAX_TEXT, MAX_VALUES, MAX_DEPTH = 2**20, 100_000, 50
_LIMITS = (  # of whole numbers, by key
    (re.compile("layers|depth|blocks|stages|convs|repeat|levels"), 1024),
    (re.compile("channels|dims|planes|classes"), 16384),
    (re.compile(""), 2**24),
)
_HINT = "if you trust the file, pass it with --config: it is then executed"


def read_config(text: str, name: str) -> dict[str, Any]:
    """Return the variables of a config as mmengine dumps it: literals, ``dict(...)`` and earlier names.

    ``name`` is for messages. Raises UsageError for anything that would have to be executed, ModelError for invalid
    syntax and for values that are too many or too deep.
    """
    try:
        if len(text) > MAX_TEXT:
            raise ValueError(f"it has more than {MAX_TEXT} characters")
        return _variables(ast.parse(text.removeprefix("\ufeff")).body, name)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ModelError(f"{name} is not a Python file: {first_line(error)}", "choose another with --config") from error


def _variables(statements: list[ast.stmt], name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    sizes: dict[int, tuple[int, int]] = {}
    for statement in statements:
        match statement:
            case ast.Assign(targets=[ast.Name(id=variable)], value=value):
                found[variable] = _value(value, found, name)
                values, depth = _extent(found[variable], sizes)
                if values > MAX_VALUES or depth > MAX_DEPTH:
                    raise ModelError(
                        f"{name}, line {statement.lineno}: {variable!r} holds {values} values in {depth} levels; "
                        f"allowed are {MAX_VALUES} in {MAX_DEPTH}",
                        "choose another with --config",
                    )
            case ast.Expr(value=ast.Constant()):  # a docstring
                continue
            case _:
                raise _refused(statement, name)
    if "_base_" in found:
        raise UsageError(f"{name} includes other files ({found['_base_']!r})", _HINT)
    return found


def find_model(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the ``model`` of a config that was read as data, and import the modules of dgkit that it names.

    A config may hold numbers, names of registered classes and plain words. Raises UsageError for what would make
    mmengine import, read or download something: other modules, scopes, dotted names of classes, names of files;
    ModelError if it has no ``model`` or impossible numbers.
    """
    model = config.get("model")
    if not isinstance(model, Mapping):
        raise ModelError(f"{name} describes no network: it has no 'model'", "choose another with --config")
    imports = config.get("custom_imports") or {}
    listed = imports.get("imports") or () if isinstance(imports, Mapping) else imports
    modules = list(listed) if isinstance(listed, list | tuple) else [listed]
    other_modules = [str(module) for module in modules if not (isinstance(module, str) and _OWN.fullmatch(module))]
    if other_modules:
        raise UsageError(f"{name} imports {', '.join(other_modules)}", _HINT)
    scope = config.get("default_scope", SCOPE)
    if scope not in (None, SCOPE):
        raise UsageError(f"{name} takes its classes from {shown(scope)} (default_scope); allowed: {SCOPE!r}", _HINT)
    _check(without_initial_weights(model), name)
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ModelError(f"{name} imports {module}: {first_line(error)}", "it needs another version") from error
    return dict(model)


def without_initial_weights(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a model config without ``init_cfg`` and ``pretrained`` at any level, nor ``train_cfg``.

    They name files and addresses of weights that the checkpoint replaces; ``train_cfg`` is for training alone.
    """
    found: dict[str, Any] = _without(model)
    return {key: value for key, value in found.items() if key != "train_cfg"}


def type_names(value: Any) -> list[str]:
    """Return every ``type`` at any level of ``value``."""
    if isinstance(value, Mapping):
        own = [value["type"]] if "type" in value else []
        return own + [kind for inner in value.values() for kind in type_names(inner)]
    return [kind for inner in value for kind in type_names(inner)] if isinstance(value, list | tuple) else []


def _without(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without(inner) for key, inner in value.items() if key not in _DROPPED}
    return type(value)(_without(inner) for inner in value) if isinstance(value, list | tuple) else value


def _check(value: Any, name: str, key: str = "model") -> None:
    """Raise UsageError for what mmengine would import, read or download, ModelError for numbers that are too large."""
    if isinstance(value, Mapping):
        for inner_key, inner in value.items():
            if not isinstance(inner_key, str) or inner_key.startswith("_"):
                raise UsageError(f"{name} holds the key {shown(inner_key)} in {key!r}", _HINT)
            if inner_key == "type" and not isinstance(inner, str):
                raise UsageError(f"{name} names no class, but {shown(inner)} as 'type'", _HINT)
            if inner_key == "type" and not inner.isidentifier():  # the registry would import what precedes a dot
                raise UsageError(f"{name} names the class {shown(inner)} by its module", _HINT)
            _check(inner, name, inner_key)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check(inner, name, key)
    elif isinstance(value, str) and (_FILE.search(value) or key == "class_weight"):
        raise UsageError(f"{name} names the file or address {shown(value)} ({key!r})", _HINT)
    elif isinstance(value, int | float) and abs(value) > (most := _limit(key)):
        raise ModelError(f"{name}: {key!r} is {value}; allowed is at most {most}", "choose another with --config")


def _limit(key: str) -> int:
    return next(most for pattern, most in _LIMITS if pattern.search(key))


def _extent(value: Any, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Return how many values ``value`` holds when names are replaced by what they stand for, and in how many levels."""
    inner = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(inner, list | tuple):
        return 1, 0
    if id(value) not in known:
        extents = [_extent(entry, known) for entry in inner]
        known[id(value)] = 1 + sum(count for count, _ in extents), 1 + max((depth for _, depth in extents), default=0)
    return known[id(value)]


def find_config(checkpoint: Path, inside: object) -> tuple[str, str]:
    """Return (name for messages, text) of the config of ``checkpoint``.

    It is ``config.py`` in the same folder, else the text ``inside`` the checkpoint, else the only ``.py`` file in the
    folder. Raises UsageError if there is none, ModelError if it cannot be read.
    """
    named = checkpoint.with_name("config.py")
    others = [path for path in sorted(checkpoint.parent.glob("*.py")) if path.is_file()]
    if not named.is_file() and isinstance(inside, str):
        return f"the config in {checkpoint}", inside
    file = named if named.is_file() else others[0] if len(others) == 1 else None
    if file is None:
        raise UsageError(f"no config found in {checkpoint} or in its folder", "pass it with --config FILE.py")
    try:
        return str(file), read_bytes(file, MAX_TEXT).decode("utf-8", errors="replace")
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {first_line(error)}", "choose another with --config") from error


def _value(node: ast.expr, known: Mapping[str, Any], name: str) -> Any:
    match node:
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords) if all(k.arg for k in keywords):
            return {keyword.arg: _value(keyword.value, known, name) for keyword in keywords}
        case ast.Call(func=ast.Name(id="dict"), args=[ast.Dict() as content], keywords=[]):
            return _value(content, known, name)  # keys that are no words
        case ast.Dict(keys=keys, values=values) if all(keys):
            pairs = zip(keys, values, strict=True)
            return {_key(key, name): _value(value, known, name) for key, value in pairs if key}
        case ast.List(elts=items):
            return [_value(item, known, name) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_value(item, known, name) for item in items)
        case ast.Name(id=variable) if variable in known:
            return known[variable]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        raise _refused(node, name) from None


def _key(node: ast.expr, name: str) -> Any:
    """Return the key of a dictionary, a literal that can be hashed."""
    try:
        key = ast.literal_eval(node)
        hash(key)
    except (ValueError, TypeError):
        raise _refused(node, name) from None
    return key


def _refused(node: ast.stmt | ast.expr, name: str) -> UsageError:
    shown = first_line(ValueError(ast.unparse(node)))
    return UsageError(f"{name}, line {node.lineno}, is code, not data: {shown[:80]}", _HINT)
