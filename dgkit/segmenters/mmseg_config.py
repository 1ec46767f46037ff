"""Read configs of mmsegmentation as data, so that a downloaded file cannot run code."""

import ast
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgkit.errors import ModelError, UsageError
from dgkit.optional import first_line

_OWN = "dgkit."
_HINT = "if you trust the file, pass it with --config: it is then executed"


def read_config(text: str, name: str) -> dict[str, Any]:
    """Return the variables of a config as mmengine dumps it: literals, ``dict(...)`` and earlier names.

    ``name`` is for messages. Raises UsageError for anything that would have to be executed, ModelError for invalid
    syntax.
    """
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError) as error:
        raise ModelError(f"{name} is not a Python file: {first_line(error)}", "choose another with --config") from error
    found: dict[str, Any] = {}
    for statement in statements:
        match statement:
            case ast.Assign(targets=[ast.Name(id=variable)], value=value):
                found[variable] = _value(value, found, name)
            case ast.Expr(value=ast.Constant()):  # a docstring
                continue
            case _:
                raise _refused(statement, name)
    if "_base_" in found:
        raise UsageError(f"{name} includes other files ({found['_base_']!r})", _HINT)
    return found


def find_model(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the ``model`` of a config that was read as data, and import the modules of dgkit that it names.

    Raises UsageError if it names other modules, ModelError if it has no ``model``.
    """
    model = config.get("model")
    if not isinstance(model, Mapping):
        raise ModelError(f"{name} describes no network: it has no 'model'", "choose another with --config")
    imports = config.get("custom_imports") or {}
    listed = imports.get("imports") or () if isinstance(imports, Mapping) else imports
    modules = [listed] if isinstance(listed, str) else list(listed)
    other_modules = [str(module) for module in modules if not str(module).startswith(_OWN)]
    if other_modules:
        raise UsageError(f"{name} imports {', '.join(other_modules)}", _HINT)
    dotted = [kind for kind in _types(model) if "." in kind]  # the registry would import the part before the dot
    if dotted:
        raise UsageError(f"{name} names the class {dotted[0]!r} by its module", _HINT)
    for module in modules:
        importlib.import_module(module)
    return dict(model)


def find_config(checkpoint: Path, inside: object) -> tuple[str, str]:
    """Return (name for messages, text) of the config of ``checkpoint``.

    It is ``config.py`` in the same folder, else the text ``inside`` the checkpoint, else the only ``.py`` file in the
    folder. Raises UsageError if there is none.
    """
    named, others = checkpoint.with_name("config.py"), sorted(checkpoint.parent.glob("*.py"))
    if not named.is_file() and isinstance(inside, str):
        return f"the config in {checkpoint}", inside
    file = named if named.is_file() else others[0] if len(others) == 1 else None
    if file is None:
        raise UsageError(f"no config found in {checkpoint} or in its folder", "pass it with --config FILE.py")
    return str(file), file.read_text(encoding="utf-8", errors="replace")


def _value(node: ast.expr, known: Mapping[str, Any], name: str) -> Any:
    match node:
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords) if all(k.arg for k in keywords):
            return {keyword.arg: _value(keyword.value, known, name) for keyword in keywords}
        case ast.Dict(keys=keys, values=values) if all(keys):
            pairs = zip(keys, values, strict=True)
            return {_value(key, known, name): _value(value, known, name) for key, value in pairs if key}
        case ast.List(elts=items):
            return [_value(item, known, name) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_value(item, known, name) for item in items)
        case ast.Name(id=variable) if variable in known:
            return known[variable]
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise _refused(node, name) from None


def _refused(node: ast.stmt | ast.expr, name: str) -> UsageError:
    shown = first_line(ValueError(ast.unparse(node)))
    return UsageError(f"{name}, line {node.lineno}, is code, not data: {shown[:80]}", _HINT)


def _types(value: Any) -> list[str]:
    """Return every ``type`` below ``value`` that is a string."""
    if isinstance(value, Mapping):
        own = [value["type"]] if isinstance(value.get("type"), str) else []
        return own + [kind for inner in value.values() for kind in _types(inner)]
    return [kind for inner in value for kind in _types(inner)] if isinstance(value, list | tuple) else []
