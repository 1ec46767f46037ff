"""One file about dgkit on this GPU for a bug report: versions, engines, and the results of ``make gpu-check``.

Paths, and the names of the user and of the machine, are replaced, so that the file can be attached to a public report.
"""

import csv
import getpass
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dgkit import __version__
from dgkit.diagnosis import Diagnosis
from dgkit.engines.inventory import StoredEngine, entries
from dgkit.engines.store import EngineStore
from dgkit.errors import InputError, OutputError
from dgkit.files import atomic_write
from dgkit.optional import CHECKOUT

FORMAT = 1
LOG_LINES = 4000  # last lines of the log that are kept
CARD = "name,driver_version,memory.total,memory.used,pstate,clocks.sm,clocks.max.sm,power.limit,temperature.gpu"
_CODE = re.compile(r".*((?:dgkit|site-packages|tests|benchmarks)/[\w./+-]+\.py)$")
_PATH = re.compile(r"(?<![\w./:])(?:~|[A-Za-z]:)?(?:[\\/][^\s\\/:'\"`,;()\[\]{}<>|=]+)+[\\/]?")


def write_report(target: Path, found: Diagnosis, check: Path | None = None) -> dict[str, Any]:
    """Write the report as JSON to ``target`` and return its content. ``check`` is the output folder of gpu-check.

    Raises OutputError if ``target`` is a folder or cannot be written, InputError if ``check`` has no results.
    """
    if target.is_dir():
        raise OutputError(f"{target} is a folder; expected the name of a file", f"use {target / 'gpu-report.json'}")
    machine = found.as_dict()
    machine["embedded_model"] = found.embedded_model is not None
    content = {
        "format": FORMAT,
        "dgkit": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "card": _card(),
        "engines": [_engine(entry) for entry in entries(EngineStore())],
        "check": None if check is None else read_check(check),
    }
    result: dict[str, Any] = redacted(content, private_names(), private_folders(check))
    atomic_write(target, (json.dumps(result, indent=1) + "\n").encode())
    return result


def read_check(folder: Path) -> dict[str, Any]:
    """Return the rows and the end of the log of gpu-check. Raises InputError if the folder has none."""
    try:
        steps = _rows(folder / "steps.csv")
        log = folder / "log.txt"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    except OSError as error:
        raise InputError(
            f"{folder} has no results of gpu-check: {error.strerror}", "run make gpu-check first"
        ) from error
    figures = _rows(folder / "bench.csv") if (folder / "bench.csv").is_file() else []
    return {"steps": steps, "figures": figures, "log": lines[-LOG_LINES:]}


def redacted(value: Any, names: dict[str, str], folders: Iterable[str]) -> Any:
    """Return JSON values in which no text holds a path, or one of ``names``, which maps words to replacements.

    Of a path to Python code of dgkit or of a package the end stays. ``folders`` are replaced even if they have spaces.
    """
    prefixes = sorted({folder for folder in folders if len(folder) > 1}, key=len, reverse=True)
    words = [re.escape(name) for name in sorted(names, key=len, reverse=True) if name]
    known = {name.lower(): text for name, text in names.items()}
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)", re.IGNORECASE) if words else None

    def clean(text: str) -> str:
        for prefix in prefixes:
            text = text.replace(prefix, "/folder")
        text = _PATH.sub(_shown_path, text)
        return pattern.sub(lambda match: known[match[0].lower()], text) if pattern else text

    def walk(item: Any) -> Any:
        if isinstance(item, str):
            return clean(item)
        if isinstance(item, dict):
            return {key: walk(part) for key, part in item.items()}
        return [walk(part) for part in item] if isinstance(item, list | tuple) else item

    return walk(value)


def private_names() -> dict[str, str]:
    """Return the names of the user and of this machine, and what replaces them."""
    variables = ("USER", "USERNAME", "LOGNAME", "SUDO_USER")
    users = {getpass.getuser(), Path.home().name, *(os.environ.get(name, "") for name in variables)}
    host = platform.node()
    names = dict.fromkeys((host, host.partition(".")[0], os.environ.get("HOSTNAME", "")), "<host>")
    return {name: text for name, text in {**names, **dict.fromkeys(users, "<user>")}.items() if len(name) > 1}


def private_folders(check: Path | None) -> list[str]:
    """Return folders of this machine that may occur in messages."""
    known = [Path.home(), Path.cwd(), CHECKOUT, EngineStore().root.parent, Path(tempfile.gettempdir())]
    return [str(path) for path in (*known, *(() if check is None else (check, check.resolve())))]


def _shown_path(match: re.Match[str]) -> str:
    code = _CODE.search(match[0].replace("\\", "/"))
    return f"<path>/{code[1]}" if code else "<path>"


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8", errors="replace") as stream:
        return list(csv.DictReader(stream))


def _engine(entry: StoredEngine) -> dict[str, Any]:
    """Return what one engine of the store depends on and how it was built; not the model's name or path."""
    if entry.sidecar is None:
        return {"state": entry.state, "bytes": entry.size}
    key = entry.sidecar.key.model_dump(mode="json", exclude={"weights"})
    return {**key, "state": entry.state, "bytes": entry.size, "seconds": entry.sidecar.seconds,
            "notes": entry.sidecar.notes}  # fmt: skip


def _card() -> str:
    """Return what nvidia-smi says about the cards, or why it says nothing."""
    if shutil.which("nvidia-smi") is None:
        return "nvidia-smi is not installed"
    command = ["nvidia-smi", f"--query-gpu={CARD}", "--format=csv"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return f"nvidia-smi failed: {type(error).__name__}"
