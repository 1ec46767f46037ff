"""Subject ``eval``: the command ``dgkit eval`` on labelled pictures, from their files to their scores."""

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dgkit.bench.bench_config import BenchTask
from dgkit.bench.command import Finished, run_dgkit
from dgkit.bench.image_speed import image_row
from dgkit.bench.network_speed import reference_key
from dgkit.bench.task_process import EXACT, attempt
from dgkit.bench.timing import LEAST, Times
from dgkit.files import atomic_write, digest_file
from dgkit.segmenters.onnx_digest import digest_onnx
from dgkit.segmenters.segmenter_sidecar import sidecar_path


def build(task: BenchTask) -> Iterator[dict[str, Any]]:
    """Run the command once for each batch, untimed, so that the timed runs find their engines."""
    for batch in task.batches:
        _evaluate(task, batch)
    yield {}


def reference(task: BenchTask) -> Iterator[dict[str, Any]]:
    """Write the mIoU in PyTorch in fp32 (for an ONNX file, in ONNX Runtime) to a file of ``task.references``."""
    path = _reference_path(task)
    if path is not None and not path.is_file():
        engine = "ort" if _is_onnx(task) else "torch"
        plain = task.model_copy(update={"engine": engine, "dtype": "fp32"})
        atomic_write(path, json.dumps(_miou(_evaluate(plain, task.largest, exact=True))).encode())
    yield {}


def measure(task: BenchTask) -> Iterator[dict[str, Any]]:
    """Yield cells of each batch on one engine in one dtype: the time to read, predict and score all pictures.

    ``parity`` is the absolute difference in mIoU from the reference. A batch that fails does not stop the others.
    """
    for batch in task.batches:
        yield {"batch": batch, **attempt(_measure, task, batch)}


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
    """Run the command into a temporary folder."""
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


def _weight_digests(segmenter: Path) -> list[str]:
    """Return a digest for each part of a segmenter that its scores depend on."""
    if segmenter.suffix == ".onnx":
        sidecar = sidecar_path(segmenter)
        return [digest_onnx(segmenter), *([digest_file(sidecar)] if sidecar.is_file() else [])]
    if segmenter.is_file():
        return [digest_file(segmenter)]
    return [digest_file(path) for path in sorted(segmenter.iterdir()) if path.suffix in (".json", ".safetensors")]


def _reference_path(task: BenchTask) -> Path | None:
    if task.references is None or task.segmenter is None:
        return None
    facts = {"weights": _weight_digests(task.segmenter), "on": task.on, "protocol": task.protocol}
    return task.references / f"eval-{reference_key(task, facts)}.json"
