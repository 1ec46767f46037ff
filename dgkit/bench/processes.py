"""A worker process: started, bounded in time, and turned into figures or the reason why there are none."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import dgkit
from dgkit.bench.bench_config import Task
from dgkit.errors import DgkitError
from dgkit.optional import first_line

WORKER = "dgkit.bench.measure"
RESULT = "result.json"
KEEP = "--keep"  # instead of a result's path: a worker for several tasks
EXACT = {"NVIDIA_TF32_OVERRIDE": "0"}  # fp32 as such in all of NVIDIA's libraries, whatever torch asks of them
_POLL = 0.02  # seconds between looks at what a kept worker has done


@dataclass(frozen=True)
class Outcome:
    """Cells of each configuration that was measured, and what stopped the worker, empty where nothing did."""

    cells: tuple[dict[str, Any], ...]
    error: str


def run_worker(task: Task, timeout: float) -> Outcome:
    """What :mod:`dgkit.bench.measure` measured; whatever becomes of a worker, this does not raise.

    A worker that is not done after ``timeout`` seconds is killed together with all that it started.
    """
    with tempfile.TemporaryDirectory(prefix="dgkit-bench-") as folder:
        path, log_path = Path(folder, RESULT), Path(folder, "log")
        with open(log_path, "w+b") as log:
            ended = _wait(_start(str(path), log, _variables(task)), task, timeout)
            return _outcome(_read(path), ended, log, 0)


class KeptWorker:
    """As :func:`run_worker`, with one process for all tasks: for machines on which a start takes longer than a task.

    The process is started when it is first needed, and again after one that died or took too long. Its peak of resident
    memory says nothing about a task, so ``rss_mib`` is not among the cells; native libraries keep what they have loaded
    and chosen. ``threads`` of a task bounds torch's own threads alone.
    """

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="dgkit-bench-")
        self._log = open(Path(self._folder.name, "log"), "w+b")
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._log.close()
        self._folder.cleanup()

    def __call__(self, task: Task, timeout: float) -> Outcome:
        """What the task found; whatever becomes of the worker, this does not raise."""
        self._asked += 1
        path, said = Path(self._folder.name, f"{self._asked}.json"), self._log.seek(0, os.SEEK_END)
        deadline = time.monotonic() + timeout
        if self._process is not None and self._process.poll() is not None:
            self._end()  # it died with nothing to do
        if self._process is None:
            self._process = _start(KEEP, self._log, {})
        line = json.dumps({"task": task.model_dump(mode="json"), "result": str(path)}).encode() + b"\n"
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has just died, which is told below
        while not _read(path)["done"] and self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(_POLL)
        result, ended = _read(path), f"not done after {timeout:g} s"
        if not result["done"]:
            ended = self._end() or ended
        return _outcome(result, ended, self._log, said)

    def _end(self) -> str:
        """Kill the process, if there is one; how it ended, empty where it was still running."""
        process, self._process = self._process, None
        if process is None:
            return ""
        running = process.poll() is None
        _kill(process)
        if process.stdin is not None:
            process.stdin.close()
        return "" if running else _ending(process.returncode)


def _read(path: Path) -> dict[str, Any]:
    """What a worker has written so far."""
    if not path.is_file():
        return {"cells": [], "error": "", "done": False}
    result: dict[str, Any] = json.loads(path.read_bytes())
    return result


def _outcome(result: dict[str, Any], ended: str, log: IO[bytes], start: int) -> Outcome:
    """``start``: where in the log the words on this task begin."""
    error = str(result["error"])
    if not result["done"]:
        log.seek(start)
        error = _explain(ended, log.read().decode(errors="replace"))
    return Outcome(tuple(result["cells"]), error)


def reason(error: BaseException) -> str:
    """An error in one line: the message of dgkit's own, the class and the first line of others."""
    return error.message if isinstance(error, DgkitError) else f"{type(error).__name__}: {first_line(error)}"


def _variables(task: Task) -> dict[str, str]:
    """What a task asks of the environment of its process."""
    variables = {} if task.threads is None else {"OMP_NUM_THREADS": str(task.threads)}
    return {**variables, **EXACT} if task.kind == "reference" else variables


def _start(argument: str, log: IO[bytes], variables: dict[str, str]) -> subprocess.Popen[bytes]:
    roots = [str(Path(dgkit.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(root for root in roots if root)
    return subprocess.Popen(
        [sys.executable, "-m", WORKER, argument],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        env={**os.environ, "PYTHONPATH": path, **variables},
        start_new_session=True,  # so that a kill reaches its children too
    )


def _wait(process: subprocess.Popen[bytes], task: Task, timeout: float) -> str:
    """How the process ended."""
    try:
        process.communicate(task.model_dump_json().encode(), timeout=timeout)
    except subprocess.TimeoutExpired:
        return f"not done after {timeout:g} s"
    finally:
        _kill(process)
    return _ending(process.returncode)


def _ending(code: int) -> str:
    if code == -signal.SIGKILL:
        return "killed, probably for want of memory"
    return f"died of {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # nothing of the group is left
    process.wait()


def _explain(ended: str, log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return f"{ended}: {lines[-1][:300]}" if lines else ended
