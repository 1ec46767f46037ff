"""Workers that die, hang or are restarted."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dgkit.bench import task_process
from dgkit.bench.bench_config import BenchTask
from dgkit.bench.task_process import PersistentWorker, run_task


@pytest.fixture(autouse=True)
def _dying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_process, "WORKER", "tests.bench.dying")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("kill", "was killed (possibly out of memory)"),
        ("abort", "was terminated by SIGABRT"),
        ("exit", "exited with code 1: a library said goodbye"),
    ],
)
def test_error_says_how_the_worker_ended(how: str, words: str) -> None:
    found = run_task(BenchTask(kind="measure", subject=how), 60)
    assert found.error == words and found.cells == ()


def test_cells_from_before_the_end_are_kept() -> None:
    found = run_task(BenchTask(kind="measure", subject="half"), 60)
    (cells,) = found.cells
    assert (cells["batch"], cells["ms_sample"]) == (1, 2.0) and "killed" in found.error


def test_hanging_worker_is_killed_with_its_children() -> None:
    found = run_task(BenchTask(kind="measure", subject="hang"), 3.0)
    state, _, child = found.error.partition(": child ")
    assert state == "not done after 3 s"
    until_dead(int(child))


def test_persistent_worker_runs_several_tasks() -> None:
    with PersistentWorker() as worker:
        first, second = (worker(task("fine"), 60) for _ in range(2))
        assert first == second and first.error == "" and len(first.cells) == 1
    assert not alive(first.cells[0]["pid"])


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("kill", "was killed (possibly out of memory)"),
        ("abort", "was terminated by SIGABRT"),
        ("exit", "exited with code 1: a library said goodbye"),
    ],
)
def test_ended_worker_is_replaced(how: str, words: str) -> None:
    with PersistentWorker() as worker:
        before = worker(task("fine"), 60)
        assert worker(task(how), 60).error == words
        half, after = worker(task("half"), 60), worker(task("fine"), 60)
    assert len(half.cells) == 1 and half.error == "was killed (possibly out of memory)"
    assert after.error == "" and len({found.cells[0]["pid"] for found in (before, half, after)}) == 3


def test_worker_that_died_between_tasks_is_replaced() -> None:
    with PersistentWorker() as worker:
        (before,) = worker(task("last"), 60).cells
        until_dead(before["pid"])
        after = worker(task("fine"), 60)
    assert after.error == "" and after.cells[0]["pid"] != before["pid"]


def test_hanging_persistent_worker_is_killed_with_its_children() -> None:
    with PersistentWorker() as worker:
        found = worker(task("hang"), 3.0)
        state, _, child = found.error.partition(": child ")
        assert state == "not done after 3 s" and worker(task("fine"), 60).error == ""
    until_dead(int(child))


def until_dead(pid: int) -> None:
    """Wait for the process to end: a kill takes effect once it is scheduled."""
    deadline = time.monotonic() + 60
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(pid)


def task(how: str) -> BenchTask:
    return BenchTask(kind="measure", subject=how)


def alive(pid: int) -> bool:
    try:
        return "Z (zombie)" not in Path("/proc", str(pid), "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
