"""What becomes of a worker that does not come to its end."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dgkit.benchmarks import processes
from dgkit.benchmarks.config import Task
from dgkit.benchmarks.processes import run_worker


@pytest.fixture(autouse=True)
def _dying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "WORKER", "tests.benchmarks.dying")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("kill", "killed, probably for want of memory"),
        ("abort", "died of SIGABRT"),
        ("exit", "exit code 1: a library said goodbye"),
    ],
)
def test_the_reason_is_told(how: str, words: str) -> None:
    found = run_worker(Task(kind="measure", subject=how), 60)
    assert found.error == words and found.cells == ()


def test_what_was_measured_before_the_end_is_kept() -> None:
    found = run_worker(Task(kind="measure", subject="half"), 60)
    assert found.cells == ({"batch": 1, "ms_sample": 2.0},) and "killed" in found.error


def test_a_worker_that_hangs_is_killed_with_its_children() -> None:
    found = run_worker(Task(kind="measure", subject="hang"), 3.0)
    state, _, child = found.error.partition(": child ")
    assert state == "not done after 3 s"
    deadline = time.monotonic() + 60
    while alive(int(child)) and time.monotonic() < deadline:  # a kill takes effect when the process is scheduled
        time.sleep(0.02)
    assert not alive(int(child))


def alive(pid: int) -> bool:
    try:
        return "Z (zombie)" not in Path("/proc", str(pid), "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
