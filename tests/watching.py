"""Processes that tests watch: their children, whether they run, and waiting for them."""

import time
from collections.abc import Callable
from pathlib import Path


def children(pid: int) -> list[int]:
    """Return the running child processes."""
    found = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in thread.read_text().split()]
    return found


def alive(pid: int) -> bool:
    """Return whether a process runs, rather than having ended or waiting to be reaped."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def wait_for(what: Callable[[], bool], seconds: float) -> bool:
    """Wait at most ``seconds`` until ``what`` is true, and return whether it is."""
    until = time.monotonic() + seconds
    while not what() and time.monotonic() < until:
        time.sleep(0.01)
    return what()
