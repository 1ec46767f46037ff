"""Run a task in this process: ``python -m dgkit.bench.measure RESULT``, with the task as JSON on stdin.

RESULT becomes a JSON object: ``cells`` is a list with the cells of a :class:`~dgkit.bench.rows.BenchRow` for each
configuration that was measured, ``error`` what stopped the task if anything did, and ``done`` whether it ended by
itself. It is rewritten after each configuration, so a process that dies leaves what it had. The output of native
libraries is ignored.

``python -m dgkit.bench.measure --keep`` takes tasks until its input ends, one per line: a JSON object with the keys
``task`` and ``result``, a path.
"""

import gc
import importlib
import json
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dgkit.bench.bench_config import EVAL, IMAGE_SUBJECTS, BenchTask
from dgkit.bench.task_process import KEEP, reason
from dgkit.files import atomic_write
from dgkit.resources import load_average

# Kind -> module and function of dgkit.bench, for networks, whole images and the evaluation.
_NETWORK = {
    "environment": "environment:find_environment",
    "ceiling": "ceilings:measure_ceilings",
    "build": "network_speed:build",
    "reference": "network_speed:reference",
    "measure": "network_speed:measure",
    "official": "official:measure_evaluation",
}
_IMAGES = {
    "build": "image_speed:build",
    "reference": "image_speed:reference",
    "measure": "image_speed:measure",
    "official": "official:measure_images",
}
_EVAL = {kind: f"evaluation_speed:{kind}" for kind in ("build", "reference", "measure")}
_WORK = {EVAL: _EVAL, **dict.fromkeys(IMAGE_SUBJECTS, _IMAGES)}


def work(task: BenchTask) -> Iterator[dict[str, Any]]:
    """Yield the cells of a task, one configuration after the other. Raises what the engine raises."""
    module, _, function = _WORK.get(task.subject, _NETWORK)[task.kind].partition(":")
    load = load_average()
    import torch

    if task.threads is not None:
        torch.set_num_threads(task.threads)
    for cells in getattr(importlib.import_module(f"dgkit.bench.{module}"), function)(task):
        if task.kind in ("measure", "official", "ceiling"):
            cells = {"load_average": load, "threads": torch.get_num_threads(), **cells}
        yield cells


def main() -> int:
    """Run the tasks; return exit code 0 even if one failed, since its RESULT says so."""
    if sys.argv[1] != KEEP:
        _run(BenchTask.model_validate_json(sys.stdin.buffer.read()), Path(sys.argv[1]))
        return 0
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _run(BenchTask.model_validate(request["task"]), Path(request["result"]), kept=True)
    return 0


def _run(task: BenchTask, result: Path, *, kept: bool = False) -> None:
    cells: list[dict[str, Any]] = []
    problem = ""
    try:
        for found in work(task):
            if kept:
                found.pop("rss_mib", None)  # the peak may be that of an earlier task
            cells.append(found)
            _write(result, cells, "", done=False)
    except Exception as error:  # an error of a backend is a result too
        traceback.print_exc()
        problem = reason(error)
    if kept:
        _free()
    _write(result, cells, problem, done=True)


def _free() -> None:
    """Return GPU memory that the task left behind to the next task."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _write(result: Path, cells: list[dict[str, Any]], error: str, *, done: bool) -> None:
    atomic_write(result, json.dumps({"cells": cells, "error": error, "done": done}).encode())


if __name__ == "__main__":
    sys.exit(main())
