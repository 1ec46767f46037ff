"""benchmarks/studies/soak.py at small scale; its 10,000 images are in benchmarks/results/soak.csv."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.scripts import BENCHMARKS

SCRIPT = BENCHMARKS / "studies" / "soak.py"
COUNT, SETTLED = 2500, 500  # images; memory takes a step of 8 MiB now and then, which many images outweigh
MOST = 8  # KiB an image: a line of the manifest takes 2, and a picture of 64 x 64 pixels that is kept 12

if not sys.platform.startswith("linux"):
    pytest.skip("reads /proc", allow_module_level=True)


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    rows = tmp_path / "soak.csv"
    command = [sys.executable, str(SCRIPT), "--count", str(COUNT), "--rows", "30", "--csv", str(rows)]
    # Else glibc gives a thread an arena of its own when it first has to wait for another: some megabytes, at any time.
    calm = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=calm)
    assert done.returncode == 0, done.stderr
    assert f"{COUNT} images" in done.stdout and "problems: none" in done.stdout
    with open(rows, newline="") as stream:
        used = {int(row["images"]): float(row["rss_mib"]) for row in csv.DictReader(stream)}
    settled = min(number for number in used if number >= SETTLED)
    last = max(used)
    assert last > 2 * settled
    assert 1024 * (used[last] - used[settled]) < MOST * (last - settled)
