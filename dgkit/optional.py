"""Optional packages: imported on first use, with an error that names the command to install them."""

from __future__ import annotations

import functools
import importlib
import json
import shlex
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from dgkit.errors import MissingDependency

CHECKOUT = Path(__file__).resolve().parents[1]


def install_command(extra: str) -> str:
    """Return the command that installs the packages of ``extra`` the way dgkit itself was installed.

    That is from the same checkout, archive or repository, else from an index, by pip or uv; quoted for all common
    shells.
    """
    return f"{installer()} {_requirement(extra)}"


def installer() -> str:
    """Return ``pip install``, or ``uv pip install`` if uv installed dgkit."""
    found = _distribution()
    by_uv = found is not None and (found.read_text("INSTALLER") or "").strip() == "uv"
    return "uv pip install" if by_uv else "pip install"


def _requirement(extra: str) -> str:
    found = _distribution()
    checkout: dict[str, Any] = {"url": CHECKOUT.as_uri(), "dir_info": {"editable": True}}
    origin = _origin(found) if found else checkout
    url = str(origin.get("url", ""))
    folder = Path(url2pathname(urlsplit(url).path))
    if "dir_info" in origin and (folder / "pyproject.toml").is_file():
        place = "." if folder == Path.cwd() else str(folder)
        return ("-e " if origin["dir_info"].get("editable") else "") + shlex.quote(f"{place}[{extra}]")
    if url and "dir_info" not in origin:
        vcs = f"{origin['vcs_info']['vcs']}+" if "vcs_info" in origin else ""
        return shlex.quote(f"dgkit[{extra}] @ {vcs}{url}")
    return f"'dgkit[{extra}]'"


def _distribution() -> metadata.Distribution | None:
    try:
        return metadata.distribution("dgkit")
    except metadata.PackageNotFoundError:  # run from a checkout without installation
        return None


def _origin(found: metadata.Distribution) -> dict[str, Any]:
    """Return what PEP 610 records about an installation that is not from an index; empty for others."""
    try:
        origin = json.loads(found.read_text("direct_url.json") or "{}")
    except ValueError:
        return {}
    return origin if isinstance(origin, dict) else {}


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
