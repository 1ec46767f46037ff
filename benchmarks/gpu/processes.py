"""How check.py ends the processes of a step, whatever they have started. Needs Python's own library alone."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

GRACE = 5.0  # seconds that a stopped step gets to clean up


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C for a step and those of its processes that are in its group."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)


def end(process: subprocess.Popen[bytes], mark: str) -> None:
    """Stop a step as Ctrl-C would, so that it stops its own processes; then kill whatever is left of it."""
    if process.poll() is None:
        interrupt(process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE)
    kill_all(mark)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=GRACE)


def kill_all(mark: str) -> None:
    """Kill the processes that have ``mark`` in their environment, whatever session they are in."""
    until = time.monotonic() + GRACE
    while signal_all(mark, signal.SIGKILL) and time.monotonic() < until:
        pass  # one may have started another while they were looked for


def signal_all(mark: str, number: int) -> bool:
    """Send a signal to the processes with ``mark``; whether there is any."""
    found = False
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if any(line.startswith(mark.encode()) for line in entry.read_bytes().split(b"\0")):
                os.kill(int(entry.parent.name), number)
                found = True
    return found
