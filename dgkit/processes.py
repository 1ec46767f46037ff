"""Processes of their own for parts of dgkit: their environment, how they ended, and how to kill them."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class Terminated(KeyboardInterrupt):
    """SIGTERM, from a batch system or ``kill``: a run ends as with Ctrl-C."""


def start_pool_worker() -> None:
    """Set up this process as a worker of a pool: it ignores Ctrl-C and ends with the process that started it.

    A terminal sends Ctrl-C to every process, and the main one handles it. A pool does not notice that the main process
    was killed: its workers would wait for work for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: "multiprocessing.process.BaseProcess") -> None:
    parent.join()
    os._exit(1)


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Raise Terminated in the main thread on the first SIGTERM; later ones do not disturb the end of the run.

    Forked processes that inherit the handler, and threads other than the main one, keep the usual effect.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    own = os.getpid()

    def end(number: int, frame: object) -> None:
        if os.getpid() != own:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        signal.signal(number, signal.SIG_IGN)
        raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def child_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with ``variables``, in which Python imports the same dgkit as here."""
    roots = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, roots)), **variables}


@contextmanager
def helper_process(
    module: str, request: Mapping[str, Any], output: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``python -m module`` while the block runs, with ``request`` as JSON in its standard input, then kill it.

    ``output`` is its standard output, as of :class:`subprocess.Popen`; messages are dropped.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.DEVNULL,
        env=child_environment({"OMP_NUM_THREADS": "1"}),
        start_new_session=True,
    )
    try:
        assert process.stdin is not None
        with suppress(OSError), process.stdin:
            process.stdin.write(json.dumps(request).encode())
        yield process
    finally:
        kill_group(process)
        if process.stdout is not None:
            process.stdout.close()


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
