"""Measure figures for check.py, all parts in one process, since a start may take longer than a measurement.

    python benchmarks/gpu/measure.py --csv rows.csv                   all parts that need no prebuilt engine
    python benchmarks/gpu/measure.py --csv rows.csv --parts vae       some of them
    python benchmarks/gpu/measure.py --csv rows.csv --size dry        on a CPU, in the smallest size

Rows of a part that fails say why. Parts without time left are named at the end, and the exit code is then 1. Figures
of an H100 are in docs/results/gpu.md.
"""

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps import LIMIT

from dgkit.bench.bench_config import BenchConfig, BenchTask
from dgkit.bench.benchmark import bench
from dgkit.bench.rows import BenchRow
from dgkit.bench.task_process import PersistentWorker, TaskOutcome
from dgkit.config import load_config
from dgkit.errors import EngineError

LEAST = 5.0  # seconds; no part is started with less time
SPARE = 4.0  # seconds before the end at which a part is stopped, so that its rows are written
NOTES = {True: "CUDA graph", False: "eager"}


@dataclass(frozen=True)
class MeasureSize:
    """Sizes of all parts: ``large`` is the model of single networks, ``small`` that of images (None: embedded)."""

    device: str
    large: str
    small: str | None
    fast: str
    others: tuple[str, ...]
    batches: tuple[int, ...]
    few: tuple[int, ...]
    image_batches: tuple[int, ...]
    count: int
    steps: int | None
    seconds: float
    official_seconds: float


# Two seconds of calls give a stable figure. Images take longer, and the published schedule is timed once.
FULL = MeasureSize(
    "cuda", "random:sd15", None, "fp16", ("bf16", "fp32"), (1, 2, 8, 32, 64), (2, 8), (64, 256), 8, None, 2.0, 15.0
)
DRY = MeasureSize("cpu", "random:tiny", "random:tiny", "bf16", ("fp32",), (1, 2), (1,), (2,), 1, 1, 0.2, 0.0)


def parts(size: MeasureSize) -> dict[str, dict[str, Any]]:
    """Return the settings of ``dgkit bench`` for each part, the most valuable first."""
    large = {"subjects": ("denoiser",), "model": size.large, "dtypes": (size.fast,), "batches": size.batches}
    small = {**large, "model": size.small, "batches": (size.few[0], size.image_batches[0])}
    images = {**small, "subjects": ("sampler",), "count": size.count, "steps": size.steps}
    more = {"batches": size.image_batches, "against": "official", "official_seconds": size.official_seconds}
    fast = {**images, "preset": "fast", "batches": size.image_batches[:1], "parity": False}
    eager, compiled = {"cuda_graph": False}, {"engines": ("compile",), "rebuild": "never"}
    return {
        "graph": {**large, "ceilings": True},
        "images": {**images, **more},
        "eager": {**large, **eager},
        "images_eager": {**images, **eager, "batches": size.image_batches[:1]},
        "fast": {**fast, "count": 8 * size.count},
        "command": {**images, "subjects": ("generate",), "batches": size.image_batches[:1], "parity": False},
        "small": small,
        "small_eager": {**small, **eager},
        "vae": {**large, **eager, "subjects": ("vae",), "batches": size.few},
        "dtypes": {**large, "dtypes": size.others, "batches": size.few},
        "large_fast": {**fast, "model": size.large},
        "compile_small": {**small, **compiled},
        "compile": {**large, **compiled},
    }


class Session:
    """Parts that share a worker, a CSV file and a deadline."""

    def __init__(
        self, size: MeasureSize, path: Path, references: Path, deadline: float, worker: PersistentWorker
    ) -> None:
        self.size, self.path, self.references, self.deadline = size, path, references, deadline
        self.rows: list[BenchRow] = []
        self.late: list[str] = []
        self._worker, self._started = worker, time.monotonic()

    def run(self, name: str, settings: dict[str, Any]) -> None:
        """Measure a part, and compare it with the rows measured before."""
        if self._left() < LEAST:
            self.late.append(name)
            return
        self._print(f"{name} ...")
        config = load_config(
            BenchConfig,
            **{"ceilings": False, "cuda_graph": True, "together": True, **settings},
            device=self.size.device,
            seconds=self.size.seconds,
            csv=self.path,
            references=self.references,
            note=NOTES[settings.get("cuda_graph", True)] if self.size.device != "cpu" else "",
        )
        try:
            self.rows += bench(config, show=self._show, worker=self._run_task, earlier=self.rows)
        except EngineError as error:  # nothing of the part worked
            self._print(f"error: {name}: {error.message}")
        if self._left() < 0:
            self.late.append(f"the rest of {name}")

    def _run_task(self, task: BenchTask, timeout: float) -> TaskOutcome:
        started = time.monotonic()
        found = self._worker(task, max(0.1, min(timeout, self._left())))
        self._print(f"  {task.kind} {task.subject} {task.engine}:{task.dtype} took {time.monotonic() - started:.1f} s")
        return found

    def _show(self, row: BenchRow) -> None:
        figure = (row.ms_median and f"{row.ms_median:.4g} ms") or row.error
        self._print(f"  {row.subject} {row.network} {row.engine}:{row.dtype} {row.batch} {row.note}: {figure}")

    def _left(self) -> float:
        return self.deadline - SPARE - time.monotonic()

    def _print(self, text: str) -> None:
        print(f"{time.monotonic() - self._started:6.1f} s  {text}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, required=True, help="file to append rows to")
    parser.add_argument("--references", type=Path, help="folder for reference outputs")
    parser.add_argument("--parts", help="only these parts, separated by commas")
    parser.add_argument("--size", choices=("full", "dry"), default="full")
    given = parser.parse_args()
    size = FULL if given.size == "full" else DRY
    known = parts(size)
    chosen = given.parts.split(",") if given.parts else [name for name in known if not name.startswith("compile")]
    if not set(chosen) <= set(known):
        parser.error(f"unknown part {min(set(chosen) - set(known))!r}; known: {', '.join(known)}")
    deadline = time.monotonic() + float(os.environ.get(LIMIT, "inf"))
    with PersistentWorker() as worker:
        references = given.references or given.csv.parent / "references"
        session = Session(size, given.csv, references, deadline, worker)
        for name in chosen:
            session.run(name, known[name])
    if session.late:
        print(f"error: no time for {', '.join(session.late)}")
    return int(bool(session.late))


if __name__ == "__main__":
    sys.exit(main())
