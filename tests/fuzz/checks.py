"""How inputs are passed to readers: calls in a row, and whole commands in this process."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from dgkit.errors import DgkitError, InputError


def command(*arguments: str | Path) -> None:
    """Run a command in this process; DgkitError if it fails as it should, AssertionError if it does not."""
    from dgkit.cli.app import main

    with tempfile.TemporaryFile() as printed:
        kept = os.dup(1), os.dup(2)
        os.dup2(printed.fileno(), 1), os.dup2(printed.fileno(), 2)
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        finally:
            os.dup2(kept[0], 1), os.dup2(kept[1], 2)
            os.close(kept[0]), os.close(kept[1])
        printed.seek(0)
        text = printed.read().decode(errors="replace")
    said = [line for line in text.splitlines() if line.startswith("error: ")]
    if code not in (0, 1, 2) or "Traceback (most" in text:
        raise AssertionError(f"exit {code}: {_last_frame(text)}")
    if code and not said and "--repair" not in arguments and arguments[0] != "verify":
        raise AssertionError(f"{arguments[0]} exits {code} without an error: {text[-200:]!r}")
    if said:
        raise InputError(said[0])


def _last_frame(text: str) -> str:
    """The last line that a traceback, or the log file that a message names, says of dgkit."""
    for word in text.split():
        path = Path(word.strip("().,;:'\""))
        if path.suffix in (".log", ".txt") and path.is_file():
            text = path.read_text(errors="replace")
    frames = [line.strip() for line in text.splitlines() if "/dgkit/" in line and "line " in line]
    last = text.strip().splitlines()[-1][:100] if text.strip() else ""
    return f"{frames[-1].rpartition('/dgkit/')[2]} {last}" if frames else last


def attempt(*calls: Callable[[], object]) -> None:
    """Make every call; raise the first DgkitError at the end, and anything else at once."""
    first: DgkitError | None = None
    for call in calls:
        try:
            call()
        except DgkitError as error:
            first = first or error
    if first is not None:
        raise first
