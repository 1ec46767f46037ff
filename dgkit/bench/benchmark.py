"""Run a benchmark: every configuration in its own process, one row each, written as soon as it is known."""

import dataclasses
import functools
import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dgkit.bench.bars import draw
from dgkit.bench.bench_config import CEILING, OFFICIAL, BenchConfig, BenchTask
from dgkit.bench.configurations import base_rows, check, tasks
from dgkit.bench.rows import COLUMNS, BenchRow, append
from dgkit.bench.task_process import TaskOutcome, run_task
from dgkit.errors import EngineError
from dgkit.files import atomic_write
from dgkit.progress import Progress, ignore


class RunTask(Protocol):
    """Runs a task within ``timeout`` seconds; never raises."""

    def __call__(self, task: BenchTask, timeout: float) -> TaskOutcome:
        """Return what the task found, or what stopped it."""


@dataclass
class _State:
    """Rows so far, outcome of each build, problem with each subject's reference, and the function that runs a task."""

    rows: list[BenchRow]
    builds: dict[tuple[str, str, str], TaskOutcome]
    problems: dict[str, str]
    run: Callable[[BenchTask], TaskOutcome]


def bench(
    config: BenchConfig,
    *,
    progress: Progress = ignore,
    show: Callable[[BenchRow], None] | None = None,
    worker: RunTask | None = None,
    earlier: Sequence[BenchRow] = (),
) -> list[BenchRow]:
    """Measure every configuration, and return the rows in the order in which they were measured.

    A configuration that fails, dies or times out is a row with ``error``. ``progress`` reports the stage ``bench`` in
    tasks, with the current one as its note. ``show`` is called with every row, after it is in the CSV file. ``worker``
    runs the tasks, by default each in a process of its own; several runs can share a
    :class:`~dgkit.bench.task_process.PersistentWorker`. The new rows are also compared with ``earlier`` ones of other
    runs. Raises UsageError for settings that are not allowed, OutputError if a file cannot be written, and EngineError
    if no configuration worked.
    """
    check(config)
    worker = worker or run_task
    if config.csv is not None:
        append(config.csv, ())
    found = worker(BenchTask(kind="environment", device=config.device), config.timeout)
    if not found.cells:
        raise EngineError(f"device {config.device}: {found.error}", "dgkit doctor lists the devices")
    environment = found.cells[0]
    state = _State([], {}, {}, functools.partial(worker, timeout=config.timeout))
    with tempfile.TemporaryDirectory(prefix="dgkit-bench-") as folder:
        todo = list(tasks(config, environment["device"], config.references or Path(folder)))
        for number, task in enumerate(todo):
            progress("bench", number, len(todo), describe(task))
            for row in _perform(task, base_rows(config, task, environment), state):
                state.rows.append(_compare(row, [*earlier, *state.rows]))
                if config.csv is not None:
                    append(config.csv, state.rows[-1:])
                if show:
                    show(state.rows[-1])
        progress("bench", len(todo), len(todo))
    _conclude(config, state)
    return state.rows


def describe(task: BenchTask) -> str:
    """Return a task in a few words."""
    if task.kind == "ceiling":
        return f"ceilings {task.dtype}"
    if task.kind in ("reference", "official"):
        return f"{task.subject} {task.kind}"
    name = f"{task.subject} {task.engine}:{task.dtype}"
    return f"{name} build" if task.kind == "build" else f"{name} batch {', '.join(map(str, task.batches))}"


def _perform(task: BenchTask, rows: list[BenchRow], state: _State) -> list[BenchRow]:
    """Run a task and fill ``rows``; the outcome of one that only prepares others is kept in ``state`` instead."""
    key = (task.subject, task.engine, task.dtype)
    built = state.builds.get(key, TaskOutcome((), "")) if task.kind == "measure" else TaskOutcome((), "")
    found = TaskOutcome((), f"build: {built.error}") if built.error else state.run(task)
    if task.kind == "build":
        state.builds[key] = found
    if task.kind == "reference" and found.error:
        state.problems[task.subject] = f"no parity, since the reference failed: {found.error}"
    problem = state.problems.get(task.subject, "") if task.kind == "measure" else ""
    engine = built.cells[0] if built.cells else {}
    filled = []
    for row, cells in itertools.zip_longest(rows, found.cells[: len(rows)]):
        known: dict[str, Any] = {"error": found.error} if cells is None else {**engine, **cells}
        known["error"] = "; ".join(text for text in (known.get("error", ""), problem) if text)
        filled.append(dataclasses.replace(row, **{name: known[name] for name in COLUMNS if name in known}))
    return filled


def _compare(row: BenchRow, before: list[BenchRow]) -> BenchRow:
    """Add the speed-up over the published schedule and over torch in fp32, and the share of the matmul ceiling."""
    changes: dict[str, Any] = {}
    for other in before:
        if other.subject == CEILING:
            peak = other.network == "matmul" and other.dtype == row.dtype and row.subject != CEILING
            if peak and other.tflops and row.tflops:
                changes["share"] = row.tflops / other.tflops
        elif (other.subject, other.model) == (row.subject, row.model) and other.ms_sample and row.ms_sample:
            if other.engine == OFFICIAL:
                changes["x_official"] = other.ms_sample / row.ms_sample
            elif (other.engine, other.dtype, other.batch, other.preset) == ("torch", "fp32", row.batch, row.preset):
                changes["x_fp32"] = other.ms_sample / row.ms_sample
    return dataclasses.replace(row, **changes)


def _conclude(config: BenchConfig, state: _State) -> None:
    measured = [row for row in state.rows if row.subject != CEILING]
    if config.plot is not None:
        atomic_write(config.plot, draw(measured).encode())
    if measured and not any(row.ms_median for row in measured):
        raise EngineError(
            f"no configuration worked; the first: {measured[0].error}", "dgkit doctor lists engines and devices"
        )
