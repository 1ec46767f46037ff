"""Runs command lines in one process that records what it imports, executes, opens, starts and connects to.

``python -m tests.security.guarded FOLDER < lines``: each line is a JSON list of arguments of ``dgkit``. Prints one JSON
object for each: exit code, what was printed, and the recorded events that concern FOLDER or the network.
"""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from dgkit.cli.app import main

FOLDER = os.path.realpath(sys.argv[1])
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request")
_PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn")

events: list[tuple[str, str]] = []


def _inside(value: Any) -> str | None:
    """The path relative to the hostile folder, None for any other value."""
    if isinstance(value, bytes):
        value = os.fsdecode(value)
    if not isinstance(value, str | os.PathLike):
        return None
    path = os.path.realpath(value)
    return os.path.relpath(path, FOLDER) if path.startswith(FOLDER + os.sep) else None


def record(event: str, values: tuple[Any, ...]) -> None:
    """The audit hook. What it must prevent, it prevents by an exception."""
    if event == "import":
        name, file = values[0], values[1]
        if "evil" in name or _inside(file) is not None:
            events.append(("import", name))
    elif event in ("exec", "compile"):
        name = values[0].co_filename if event == "exec" else values[1]
        if os.path.isabs(os.fsdecode(name or "")) and (found := _inside(name)) is not None:
            events.append(("execute", found))
    elif event == "open":
        if (found := _inside(values[0])) is not None and os.path.isfile(values[0]):
            writes = isinstance(values[2], int) and values[2] & (os.O_WRONLY | os.O_RDWR)
            events.append(("write" if writes else "read", found))
    elif event == "ctypes.dlopen":
        if os.path.isabs(values[0] or "") and (found := _inside(values[0])) is not None:
            events.append(("execute", found))
    elif event == "pickle.find_class":
        events.append(("unpickle", f"{values[0]}.{values[1]}"))
    elif event in _PROGRAMS:
        words = values[1] if event == "subprocess.Popen" else values[0]
        events.append(("start", " ".join(map(str, words)) if isinstance(words, list | tuple) else str(words)))
    elif event in _NETWORK:
        if event == "socket.connect" and isinstance(values[1], str | bytes):
            return  # a socket of this machine
        events.append(("connect", str(values[-1])))
        raise OSError("no network in this test")


def run(arguments: list[str]) -> dict[str, Any]:
    events.clear()
    printed, said = io.StringIO(), io.StringIO()
    with redirect_stdout(printed), redirect_stderr(said):
        try:
            code: Any = main(arguments)
        except BaseException as error:
            code = f"{type(error).__name__}: {error}"
    found = sorted(set(events))
    return {"code": code, "stdout": printed.getvalue()[-2000:], "stderr": said.getvalue()[-2000:], "events": found}


if __name__ == "__main__":
    sys.addaudithook(record)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), file=sys.__stdout__, flush=True)
