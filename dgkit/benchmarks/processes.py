"""A worker process: started, bounded in time, and turned into figures or the reason why there are none."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import dgkit
from dgkit.benchmarks.config import Task
from dgkit.errors import DgkitError
from dgkit.optional import first_line

WORKER = "dgkit.benchmarks.worker"
RESULT = "result.json"


@dataclass(frozen=True)
class Outcome:
    """Cells of each configuration that was measured, and what stopped the worker, empty where nothing did."""

    cells: tuple[dict[str, Any], ...]
    error: str


def run_worker(task: Task, timeout: float) -> Outcome:
    """What :mod:`dgkit.benchmarks.worker` measured; whatever becomes of a worker, this does not raise.

    A worker that is not done after ``timeout`` seconds is killed together with all that it started.
    """
    with tempfile.TemporaryDirectory(prefix="dgkit-bench-") as folder:
        path, log_path = Path(folder, RESULT), Path(folder, "log")
        with open(log_path, "w+b") as log:
            ended = _wait(_start(task, path, log), task, timeout)
            result: dict[str, Any] = {"cells": [], "error": "", "done": False}
            if path.is_file():
                result = json.loads(path.read_bytes())
            error = str(result["error"])
            if not result["done"]:
                log.seek(0)
                error = _explain(ended, log.read().decode(errors="replace"))
            return Outcome(tuple(result["cells"]), error)


def reason(error: BaseException) -> str:
    """An error in one line: the message of dgkit's own, the class and the first line of others."""
    return error.message if isinstance(error, DgkitError) else f"{type(error).__name__}: {first_line(error)}"


def _start(task: Task, path: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    roots = [str(Path(dgkit.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(root for root in roots if root)}
    if task.threads is not None:
        variables["OMP_NUM_THREADS"] = str(task.threads)
    if task.kind == "reference":  # fp32 as such in all of NVIDIA's libraries, whatever torch asks of them
        variables["NVIDIA_TF32_OVERRIDE"] = "0"
    return subprocess.Popen(
        [sys.executable, "-m", WORKER, str(path)],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        env=variables,
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
    code = process.returncode
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
