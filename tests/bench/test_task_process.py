"""What becomes of a worker that does not come to its end."""

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
def test_the_reason_is_told(how: str, words: str) -> None:
    found = run_task(BenchTask(kind="measure", subject=how), 60)
    assert found.error == words and found.cells == ()


def test_what_was_measured_before_the_end_is_kept() -> None:
    found = run_task(BenchTask(kind="measure", subject="half"), 60)
    (cells,) = found.cells
    assert (cells["batch"], cells["ms_sample"]) == (1, 2.0) and "killed" in found.error


def test_a_worker_that_hangs_is_killed_with_its_children() -> None:
    found = run_task(BenchTask(kind="measure", subject="hang"), 3.0)
    state, _, child = found.error.partition(": child ")
    assert state == "not done after 3 s"
    until_dead(int(child))


def test_a_kept_worker_does_one_task_after_the_other() -> None:
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
def test_another_follows_a_worker_that_ended(how: str, words: str) -> None:
    with PersistentWorker() as worker:
        before = worker(task("fine"), 60)
        assert worker(task(how), 60).error == words
        half, after = worker(task("half"), 60), worker(task("fine"), 60)
    assert len(half.cells) == 1 and half.error == "was killed (possibly out of memory)"
    assert after.error == "" and len({found.cells[0]["pid"] for found in (before, half, after)}) == 3


def test_another_follows_a_worker_that_died_with_nothing_to_do() -> None:
    with PersistentWorker() as worker:
        (before,) = worker(task("last"), 60).cells
        until_dead(before["pid"])
        after = worker(task("fine"), 60)
    assert after.error == "" and after.cells[0]["pid"] != before["pid"]


def test_a_kept_worker_that_hangs_is_killed_with_its_children() -> None:
    with PersistentWorker() as worker:
        found = worker(task("hang"), 3.0)
        state, _, child = found.error.partition(": child ")
        assert state == "not done after 3 s" and worker(task("fine"), 60).error == ""
    until_dead(int(child))


def until_dead(pid: int) -> None:
    """A kill takes effect when the process is scheduled."""
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
