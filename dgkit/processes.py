"""Processes of their own for parts of dgkit: their environment, how they ended, and how to kill them."""

import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import dgkit


def child_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with ``variables``, in which Python imports the same dgkit as here."""
    roots = [str(Path(dgkit.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, roots)), **variables}


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that was started in a session of its own, with all that it started, and wait for its end."""
    with suppress(ProcessLookupError, PermissionError):  # nothing of the group is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def describe_exit(code: int) -> str:
    """Return how a process ended, given its ``Popen.returncode``: "was killed (possibly out of memory)"."""
    if code == -signal.SIGKILL:
        return "was killed (possibly out of memory)"
    return f"was terminated by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
