"""``eval``: ``dgkit eval`` on labelled pictures, from their files to their scores."""

import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from dgkit import __version__
from dgkit.bench.bench_config import BenchTask
from dgkit.bench.command import Finished, run_dgkit
from dgkit.bench.image_speed import image_row
from dgkit.bench.task_process import EXACT, reason
from dgkit.bench.timing import LEAST, Times
from dgkit.engines.machine import device_facts
from dgkit.files import atomic_write, digest_file


def build(task: BenchTask) -> Iterator[dict[str, Any]]:
    """A run for each batch, whose engine is its own, so that timed runs find theirs; building is not timed."""
    for batch in task.batches:
        _evaluate(task, batch)
    yield {}


def reference(task: BenchTask) -> Iterator[dict[str, Any]]:
    """MIoU in PyTorch and fp32, of an ONNX file in ONNX Runtime, in a file of ``task.references``."""
    path = _reference_path(task)
    if path is not None and not path.is_file():
        engine = "ort" if _is_onnx(task) else "torch"
        plain = task.model_copy(update={"engine": engine, "dtype": "fp32"})
        atomic_write(path, json.dumps(_miou(_evaluate(plain, task.largest, exact=True))).encode())
    yield {}


def measure(task: BenchTask) -> Iterator[dict[str, Any]]:
    """Cells of each batch on one engine in one dtype: the time in which pictures are read, predicted and scored.

    ``parity`` is the difference in mIoU to the reference. A batch that fails does not stop the others.
    """
    for batch in task.batches:
        try:
            cells = _measure(task, batch)
        except Exception as error:  # whatever a backend raises is a finding about that backend
            cells = {"error": reason(error)}
        yield {"batch": batch, **cells}


def _measure(task: BenchTask, batch: int) -> dict[str, Any]:
    seconds: list[float] = []
    started = time.perf_counter()
    while len(seconds) < LEAST or (len(seconds) < task.repeats and sum(seconds) < task.seconds):
        finished = _evaluate(task, batch)
        report = json.loads(finished.printed)
        seconds.append(report["run"]["seconds"])
        if len(seconds) == 1:
            load = time.perf_counter() - started - seconds[0]
    times = Times(tuple(1e3 * value for value in seconds))
    cells = {**image_row(times, report["run"]["scored"]), "load_s": load, **finished.memory}
    path = _reference_path(task)
    if path is not None and path.is_file():
        cells["parity"] = abs(_miou(finished) - json.loads(path.read_bytes()))
    return cells


def _evaluate(task: BenchTask, batch: int, *, exact: bool = False) -> Finished:
    """One run of the command into a folder that is thrown away."""
    options: dict[str, object] = {
        "--on": task.on, "--protocol": task.protocol, "--engine": task.engine, "--dtype": task.dtype,
        "--device": task.device, "--batch": batch, "--worst": 0,
    }  # fmt: skip
    words = [str(word) for pair in options.items() for word in pair]
    with tempfile.TemporaryDirectory(prefix="dgkit-bench-") as folder:
        command = ["eval", str(task.segmenter), *words, "--json", "--out", str(Path(folder, "out"))]
        return run_dgkit(command, task.device, EXACT if exact else None)


def _miou(finished: Finished) -> float:
    (scores,) = json.loads(finished.printed)["sets"].values()
    return float(scores["miou"])


def _is_onnx(task: BenchTask) -> bool:
    return task.segmenter is not None and task.segmenter.suffix == ".onnx"


def _reference_path(task: BenchTask) -> Path | None:
    if task.references is None or task.segmenter is None:
        return None
    files = [task.segmenter] if task.segmenter.is_file() else sorted(task.segmenter.glob("*.safetensors"))
    facts = {"weights": [digest_file(path) for path in files], "torch": torch.__version__, "on": task.on,
             "protocol": task.protocol, "device": device_facts(task.device), "dgkit": __version__}  # fmt: skip
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return task.references / f"eval-{name}.json"
