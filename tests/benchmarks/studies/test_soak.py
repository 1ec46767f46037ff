"""A short run of benchmarks/studies/soak.py; that of 10,000 images is recorded in benchmarks/results/soak.csv.

tests/generation/test_flow.py counts the images of a run in memory in a moment.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.scripts import BENCHMARKS

SCRIPT = BENCHMARKS / "studies" / "soak.py"
COUNT, SETTLED = 1500, 400  # images; many, since memory grows by 8 MiB at once from time to time
MOST = 11  # KiB per image; a line of the manifest takes 2, an image of 64 x 64 pixels in memory 12 more

if not sys.platform.startswith("linux"):
    pytest.skip("reads /proc", allow_module_level=True)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    rows = tmp_path / "soak.csv"
    command = [sys.executable, str(SCRIPT), "--count", str(COUNT), "--rows", "30", "--csv", str(rows)]
    # Else glibc creates an arena of some megabytes when a thread first waits for another, at any time.
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
