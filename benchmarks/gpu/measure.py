"""Figures for check.py, part after part in one process: on many a machine a start takes longer than they do.

    python benchmarks/gpu/measure.py --csv rows.csv                   all parts that need no engine to be built before
    python benchmarks/gpu/measure.py --csv rows.csv --parts vae       some of them
    python benchmarks/gpu/measure.py --csv rows.csv --size dry        on a CPU, as small as they get

A part that fails is rows that say why, and one that finds no time left is named at the end; the exit code is then 1.
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

LEAST = 5.0  # seconds without which no part is started
SPARE = 4.0  # seconds before the end at which a part is given up, so that its rows are written
NOTES = {True: "CUDA graph", False: "eager"}


@dataclass(frozen=True)
class Size:
    """``large`` is the model of single networks, ``small`` that of images (None: the embedded one)."""

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


# A figure is settled after two seconds of calls. Images take longer, and the published schedule is timed once.
FULL = Size(
    "cuda", "random:sd15", None, "fp16", ("bf16", "fp32"), (1, 2, 8, 32, 64), (2, 8), (64, 256), 8, None, 2.0, 15.0
)
DRY = Size("cpu", "random:tiny", "random:tiny", "bf16", ("fp32",), (1, 2), (1,), (2,), 1, 1, 0.2, 0.0)


def parts(size: Size) -> dict[str, dict[str, Any]]:
    """Settings of ``dgkit bench`` for each part, the most valuable first."""
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
    """Parts that share a worker, a CSV file and a time by which all has to be over."""

    def __init__(self, size: Size, path: Path, references: Path, deadline: float, worker: PersistentWorker) -> None:
        self.size, self.path, self.references, self.deadline = size, path, references, deadline
        self.rows: list[BenchRow] = []
        self.late: list[str] = []
        self._worker, self._started = worker, time.monotonic()

    def run(self, name: str, settings: dict[str, Any]) -> None:
        """Measure a part; what was measured before is what it is compared with."""
        if self._left() < LEAST:
            self.late.append(name)
            return
        self._say(f"{name} ...")
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
            self.rows += bench(config, show=self._show, worker=self._do, earlier=self.rows)
        except EngineError as error:  # nothing of the part worked
            self._say(f"error: {name}: {error.message}")
        if self._left() < 0:
            self.late.append(f"the rest of {name}")

    def _do(self, task: BenchTask, timeout: float) -> TaskOutcome:
        started = time.monotonic()
        found = self._worker(task, max(0.1, min(timeout, self._left())))
        self._say(f"  {task.kind} {task.subject} {task.engine}:{task.dtype} took {time.monotonic() - started:.1f} s")
        return found

    def _show(self, row: BenchRow) -> None:
        figure = (row.ms_median and f"{row.ms_median:.4g} ms") or row.error
        self._say(f"  {row.subject} {row.network} {row.engine}:{row.dtype} {row.batch} {row.note}: {figure}")

    def _left(self) -> float:
        return self.deadline - SPARE - time.monotonic()

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._started:6.1f} s  {text}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, required=True, help="file that the rows are added to")
    parser.add_argument("--references", type=Path, help="folder that keeps what outputs are compared with")
    parser.add_argument("--parts", help="only these, separated by commas")
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
