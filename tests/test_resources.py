"""Cores, memory and load of this machine."""

import os
import subprocess
import sys

from dgkit.resources import available_memory, load_average, peak_memory, total_memory, usable_cores

ONE_CORE = """
import os, sys
from dgkit.resources import usable_cores
os.sched_setaffinity(0, {int(sys.argv[1])})
print(usable_cores())
"""


def test_cores_are_those_of_the_affinity() -> None:
    cores = usable_cores()
    assert cores == sorted(os.sched_getaffinity(0))
    found = subprocess.run([sys.executable, "-c", ONE_CORE, str(cores[0])], capture_output=True, text=True, check=True)
    assert found.stdout == f"[{cores[0]}]\n"


def test_memory_and_load() -> None:
    assert 0 < available_memory() < total_memory()
    assert load_average() >= 0


def test_peak_memory() -> None:
    peak = peak_memory()
    assert peak is not None and 2**20 < peak < total_memory()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        other = peak_memory(process.pid)
        assert other is not None and 0 < other < peak
        process.communicate(b"\n")
    assert peak_memory(process.pid) is None
