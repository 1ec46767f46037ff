"""Number of timed calls, their statistics, and peak memory."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch

from dgkit.bench.memory import DeviceMemory, peak_rss
from dgkit.bench.timing import Times, clock_calls, time_calls

CPU = torch.device("cpu")


def test_median_and_percentile() -> None:
    times = Times((10.0, 1.0, 2.0, 3.0, 4.0))
    assert times.median == 3.0 and times.least == 1.0
    assert times.p95 == pytest.approx(4.0 + 0.8 * 6.0)
    assert times.row(2) == {"calls": 5, "ms_median": 3.0, "ms_p95": times.p95, "ms_sample": 1.5}


class Counter:
    def __init__(self, seconds: float = 0.0) -> None:
        self.calls, self.seconds = 0, seconds

    def __call__(self) -> None:
        self.calls += 1
        time.sleep(self.seconds)


def test_repeats_limit_fast_calls() -> None:
    call = Counter()
    assert len(time_calls(call, CPU, 7, 60.0).milliseconds) == 7
    assert call.calls == 3 + 7


def test_slow_calls_are_timed_three_times_after_one_warm_up() -> None:
    call = Counter(0.02)
    times = time_calls(call, CPU, 50, 0.001)
    assert len(times.milliseconds) == 3 and call.calls == 4
    assert min(times.milliseconds) >= 20.0


def test_number_of_calls_by_the_clock() -> None:
    call = Counter()
    assert len(clock_calls(call, 5, 60.0).milliseconds) == 5
    assert len(clock_calls(call, 50, 0.0).milliseconds) == 3
    assert len(clock_calls(call, 1, 0.0).milliseconds) == 1
    assert call.calls == 5 + 3 + 1


def test_peak_memory_is_that_of_one_process() -> None:
    # In another process: the peak of this one may be far above its present memory.
    program = """if True:
        import numpy as np
        from dgkit.bench.memory import peak_rss
        before = peak_rss()
        block = np.ones(64 << 20, dtype=np.uint8)
        print(before, peak_rss(), block[-1])
    """
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    before, after, _ = map(float, printed.split())
    assert 32 <= after - before < 128
    if sys.platform == "linux":
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        small = peak_rss(process.pid)
        process.communicate(b"\n")
        assert small is not None and 0 < small < before / 2


def test_cpu_has_no_device_memory() -> None:
    memory = DeviceMemory(CPU)
    memory.forget(), memory.look()
    assert memory.row() == {}


@pytest.mark.gpu
def test_events_and_memory_of_a_gpu() -> None:
    device = torch.device("cuda:0")
    memory = DeviceMemory(device)
    first = torch.randn(2048, 2048, device=device)
    times = time_calls(lambda: first @ first, device, 20, 60.0)
    memory.look()
    assert len(times.milliseconds) == 20 and 0 < times.least <= times.median < 1e3
    row = memory.row()
    assert row["torch_mib"] >= 32 and row["gpu_mib"] >= 0
