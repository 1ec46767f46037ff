"""One configuration in a process of its own: ``python -m dgkit.bench.measure RESULT`` with a task on stdin.

RESULT becomes a JSON object: ``cells`` is a list with the cells of a :class:`~dgkit.bench.rows.BenchRow` for each
configuration that was measured, ``error`` says what stopped the process, if anything did, and ``done`` that it came to
its end. It is written anew after each configuration, so that a process that dies leaves what it had. What native
libraries print does not matter.

``python -m dgkit.bench.measure --keep`` takes tasks until its input ends, each a line with a JSON object of a task
and its RESULT.
"""

import gc
import importlib
import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dgkit.bench.bench_config import EVAL, IMAGE_SUBJECTS, BenchTask
from dgkit.bench.task_process import KEEP, reason
from dgkit.files import atomic_write

# Kind -> module and function of dgkit.bench, of networks, of whole images, and of the evaluation.
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
    """The cells that ``task`` gives, one configuration after the other. Raises whatever the engine raises."""
    module, _, function = _WORK.get(task.subject, _NETWORK)[task.kind].partition(":")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    import torch

    if task.threads is not None:
        torch.set_num_threads(task.threads)
    for cells in getattr(importlib.import_module(f"dgkit.bench.{module}"), function)(task):
        if task.kind in ("measure", "official", "ceiling"):
            cells = {"load_average": load, "threads": torch.get_num_threads(), **cells}
        yield cells


def main() -> int:
    """Exit code 0, also where the task failed: RESULT tells."""
    if sys.argv[1] != KEEP:
        _do(BenchTask.model_validate_json(sys.stdin.buffer.read()), Path(sys.argv[1]))
        return 0
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        _do(BenchTask.model_validate(asked["task"]), Path(asked["result"]), kept=True)
    return 0


def _do(task: BenchTask, result: Path, *, kept: bool = False) -> None:
    cells: list[dict[str, Any]] = []
    problem = ""
    try:
        for found in work(task):
            if kept:
                found.pop("rss_mib", None)  # the peak may be that of an earlier task
            cells.append(found)
            _write(result, cells, "", done=False)
    except Exception as error:  # whatever a backend raises is a finding about that backend
        traceback.print_exc()
        problem = reason(error)
    if kept:
        _free()
    _write(result, cells, problem, done=True)


def _free() -> None:
    """What a task has left on a GPU would be missing to the next."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _write(result: Path, cells: list[dict[str, Any]], error: str, *, done: bool) -> None:
    atomic_write(result, json.dumps({"cells": cells, "error": error, "done": done}).encode())


if __name__ == "__main__":
    sys.exit(main())
