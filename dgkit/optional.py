"""Packages that only some commands need: imported when asked for, with the command that installs them when absent."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

from dgkit.errors import MissingDependency


def install_command(extra: str) -> str:
    """The line that brings the packages of ``extra``, quoted for every common shell."""
    return f"pip install 'dgkit[{extra}]'"


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, which the extra ``extra`` of dgkit brings.

    Raises MissingDependency if the module is absent, and also if it is present and does not load (a library of the
    system is missing, say): the two have different remedies, so the message tells which one it is.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and _is_parent(error.name, module):
            message = f"the Python package '{module}' is not installed; it comes with the extra '{extra}'"
            raise MissingDependency(message, install_command(extra)) from None
        message = f"the Python package '{module}' is installed but does not load: {first_line(error)}"
        hint = f"dgkit doctor, then {install_command(extra)} if a package is missing"
        raise MissingDependency(message, hint) from error


@functools.cache
def openvino_core() -> Any:
    """The one ``openvino.Core`` of the process. Raises MissingDependency as :func:`require` does.

    Each Core has a CPU plugin of its own. A plugin sets an alternate signal stack when it is made; when it ends it
    frees that stack and sets the earlier one again. Where plugins end in another order than the reverse of their
    making, a stack that was freed is in force, and the next signal, Ctrl-C say, kills the process without a word
    (OpenVINO 2026.4).
    """
    return require("openvino", "cpu").Core()


def _is_parent(missing: str | None, module: str) -> bool:
    """True where ``missing`` is ``module`` or a package above it, False where it is something that module needs."""
    return missing is not None and (module == missing or module.startswith(missing + "."))


def first_line(error: BaseException) -> str:
    """First line of an error's text, its class name if it has none: native libraries append pages to theirs."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
