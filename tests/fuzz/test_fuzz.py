"""Damaged and hostile files through every reader: a result or a DgkitError, in bounded time and memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs the /proc of Linux")
ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "fuzz.csv"


def fuzz(inputs: int, *options: str) -> None:
    """Run the suite in a process of its own: it forks, which a process with threads of its own must not."""
    command = [sys.executable, "-m", "tests.fuzz.harness", "--inputs", str(inputs), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_two_hundred_damaged_files_are_refused_or_read() -> None:
    fuzz(200, "--workers", "1")


@pytest.mark.slow
def test_twenty_thousand_damaged_files_are_refused_or_read() -> None:
    fuzz(20_000, "--workers", "2", "--csv", str(RESULTS))
