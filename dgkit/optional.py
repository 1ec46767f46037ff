"""Optional packages: imported on first use, with an error that names the command to install them."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

from dgkit.errors import MissingDependency


def install_command(extra: str) -> str:
    """Return the command that installs the packages of ``extra``, quoted for all common shells."""
    return f"pip install 'dgkit[{extra}]'"


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, which belongs to the extra ``extra`` of dgkit.

    Raises MissingDependency if the module is not installed, or if it is installed but does not load, for example for
    lack of a system library. The message says which, since the remedies differ.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and _is_parent(error.name, module):
            message = f"the Python package '{module}' is not installed; it belongs to the extra '{extra}'"
            raise MissingDependency(message, install_command(extra)) from None
        message = f"the Python package '{module}' is installed but does not load: {first_line(error)}"
        hint = f"dgkit doctor, then {install_command(extra)} if a package is missing"
        raise MissingDependency(message, hint) from error


@functools.cache
def openvino_core() -> Any:
    """Return the only ``openvino.Core`` of the process. Raises MissingDependency as :func:`require` does.

    Each Core has its own CPU plugin. A plugin sets an alternate signal stack when it is created; when it is destroyed,
    it frees that stack and restores the previous one. If plugins are not destroyed in the reverse order of their
    creation, a freed stack stays active, and the next signal, such as Ctrl-C, kills the process without a message
    (OpenVINO 2026.4).
    """
    return require("openvino", "cpu").Core()


def _is_parent(missing: str | None, module: str) -> bool:
    """Return whether ``missing`` is ``module`` or a parent of it, rather than a dependency of it."""
    return missing is not None and (module == missing or module.startswith(missing + "."))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its class name; native libraries append pages of details."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
