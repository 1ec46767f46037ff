"""A process for benchmark tasks: started, bounded in time, and turned into figures or the reason for having none."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from dgkit.bench.bench_config import BenchTask
from dgkit.errors import DgkitError
from dgkit.optional import first_line
from dgkit.processes import child_environment, describe_exit, kill_group

WORKER = "dgkit.bench.measure"
RESULT = "result.json"
KEEP = "--keep"  # instead of the path of a result: the process takes several tasks
EXACT = {"NVIDIA_TF32_OVERRIDE": "0"}  # no TF32 in NVIDIA's libraries, whatever torch requests
_POLL = 0.02  # seconds between looks at the result of a persistent worker


@dataclass(frozen=True)
class TaskOutcome:
    """Cells of each configuration that was measured, and what stopped the worker; empty if nothing did."""

    cells: tuple[dict[str, Any], ...]
    error: str


def run_task(task: BenchTask, timeout: float) -> TaskOutcome:
    """Return what :mod:`dgkit.bench.measure` found in a process of its own. Never raises.

    The process and all that it started are killed after ``timeout`` seconds.
    """
    with tempfile.TemporaryDirectory(prefix="dgkit-bench-") as folder:
        path, log_path = Path(folder, RESULT), Path(folder, "log")
        with log_path.open("w+b") as log:
            ended = _wait(_start(str(path), log, _variables(task)), task, timeout)
            return _outcome(_read(path), ended, log, 0)


class PersistentWorker:
    """:func:`run_task` with one process for all tasks, for machines on which a start takes longer than a task.

    The process is started at the first task, and again after it died or timed out. Its peak of resident memory says
    nothing about a single task, so the cells lack ``rss_mib``; native libraries keep what they loaded and chose for
    earlier tasks. ``threads`` of a task bounds only torch's own threads.
    """

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="dgkit-bench-")
        self._log = Path(self._folder.name, "log").open("w+b")
        self._process: subprocess.Popen[bytes] | None = None
        self._count = 0  # tasks so far
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._log.close()
        self._folder.cleanup()

    def __call__(self, task: BenchTask, timeout: float) -> TaskOutcome:
        """Return what the task found. Never raises."""
        self._count += 1
        path, log_start = Path(self._folder.name, f"{self._count}.json"), self._log.seek(0, os.SEEK_END)
        deadline = time.monotonic() + timeout
        if self._process is not None and self._process.poll() is not None:
            self._end()  # it died between two tasks
        if self._process is None:
            self._process = _start(KEEP, self._log, {})
        line = json.dumps({"task": task.model_dump(mode="json"), "result": str(path)}).encode() + b"\n"
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has just died, which is found below
            self._process.stdin.write(line)
            self._process.stdin.flush()
        while not _read(path)["done"] and self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(_POLL)
        result, ended = _read(path), f"not done after {timeout:g} s"
        if not result["done"]:
            ended = self._end() or ended
        return _outcome(result, ended, self._log, log_start)

    def _end(self) -> str:
        """Kill the process, if there is one; return how it had ended, empty if it was still running."""
        process, self._process = self._process, None
        if process is None:
            return ""
        running = process.poll() is None
        kill_group(process)
        if process.stdin is not None:
            process.stdin.close()
        return "" if running else describe_exit(process.returncode)


def _read(path: Path) -> dict[str, Any]:
    """Return what a worker has written so far."""
    if not path.is_file():
        return {"cells": [], "error": "", "done": False}
    result: dict[str, Any] = json.loads(path.read_bytes())
    return result


def _outcome(result: dict[str, Any], ended: str, log: IO[bytes], start: int) -> TaskOutcome:
    """Combine a result with how the worker ended; its log on this task begins at byte ``start``."""
    error = str(result["error"])
    if not result["done"]:
        log.seek(start)
        lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        error = f"{ended}: {lines[-1][:300]}" if lines else ended
    return TaskOutcome(tuple(result["cells"]), error)


def reason(error: BaseException) -> str:
    """Return an error in one line: the message of dgkit's own, class and first line of others."""
    return error.message if isinstance(error, DgkitError) else f"{type(error).__name__}: {first_line(error)}"


def attempt(measure: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Return the cells that ``measure`` finds, or ``error`` with whatever it raises: a result about a backend too."""
    try:
        return measure(*arguments)
    except Exception as error:
        return {"error": reason(error)}


def _variables(task: BenchTask) -> dict[str, str]:
    """Return the environment variables that a task needs."""
    variables = {} if task.threads is None else {"OMP_NUM_THREADS": str(task.threads)}
    return {**variables, **EXACT} if task.kind == "reference" else variables


def _start(argument: str, log: IO[bytes], variables: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", WORKER, argument],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        env=child_environment(variables),
        start_new_session=True,  # so that a kill reaches its children too
    )


def _wait(process: subprocess.Popen[bytes], task: BenchTask, timeout: float) -> str:
    """Return how the process ended."""
    try:
        process.communicate(task.model_dump_json().encode(), timeout=timeout)
    except subprocess.TimeoutExpired:
        return f"not done after {timeout:g} s"
    finally:
        kill_group(process)
    return describe_exit(process.returncode)
