"""End the processes of a step of check.py and all that they started. Imports only the standard library."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

GRACE = 5.0  # seconds for a stopped step to clean up


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Send Ctrl-C to the process group of a step."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)


def end(process: subprocess.Popen[bytes], mark: str) -> None:
    """Stop a step with Ctrl-C, so that it stops its own processes; then kill what is left of it."""
    if process.poll() is None:
        interrupt(process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE)
    kill_all(mark)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=GRACE)


def kill_all(mark: str) -> None:
    """Kill all processes that have ``mark`` in their environment, in any session."""
    until = time.monotonic() + GRACE
    while signal_all(mark, signal.SIGKILL) and time.monotonic() < until:
        pass  # one may have started another during the search


def signal_all(mark: str, number: int) -> bool:
    """Send a signal to the processes with ``mark``; return whether there is any."""
    found = False
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if any(line.startswith(mark.encode()) for line in entry.read_bytes().split(b"\0")):
                os.kill(int(entry.parent.name), number)
                found = True
    return found
