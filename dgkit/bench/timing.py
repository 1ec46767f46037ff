"""Calls timed after a warm-up: with CUDA events on a GPU, with the clock elsewhere."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

LEAST = 3  # timed calls, whatever the time they take
WARM_UP = 3


@dataclass(frozen=True)
class Times:
    """Milliseconds of each timed call."""

    milliseconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.milliseconds))

    @property
    def p95(self) -> float:
        """95th percentile, between neighbours where it falls between two calls."""
        return float(np.percentile(self.milliseconds, 95))

    @property
    def least(self) -> float:
        return min(self.milliseconds)

    def row(self, samples: int) -> dict[str, float | int]:
        """Cells of a row whose calls hold ``samples`` samples."""
        median = self.median
        return {
            "calls": len(self.milliseconds),
            "ms_median": median,
            "ms_p95": self.p95,
            "ms_sample": median / samples,
        }


def time_calls(call: Callable[[], object], device: torch.device, repeats: int, seconds: float) -> Times:
    """As many calls as fit into ``seconds``, at least three and at most ``repeats``, after three that do not count.

    Of calls that take more than a quarter of ``seconds`` only one is made to warm up. On a GPU the calls follow each
    other without waiting, as they do in use, so that a call is bounded by the GPU or by what feeds it, whichever is
    slower.
    """
    started = time.perf_counter()
    lasted = _once(call, device)
    for _ in range(WARM_UP - 1):
        if time.perf_counter() - started > seconds / 4:
            break
        lasted = _once(call, device)
    count = max(LEAST, min(repeats, int(seconds / max(lasted, 1e-9))))
    if device.type == "cuda":
        return Times(_events(call, device, count))
    return Times(tuple(1e3 * _once(call, device) for _ in range(count)))


def _once(call: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    started = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - started


def _events(call: Callable[[], object], device: torch.device, count: int) -> tuple[float, ...]:
    with torch.cuda.device(device):
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        marks[0].record()
        for mark in marks[1:]:
            call()
            mark.record()
        torch.cuda.synchronize(device)
        return _between(marks)


def _between(marks: Sequence[torch.cuda.Event]) -> tuple[float, ...]:
    return tuple(first.elapsed_time(second) for first, second in itertools.pairwise(marks))


def synchronize(device: torch.device) -> None:
    """Wait for a GPU; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clock_calls(call: Callable[[], object], repeats: int, seconds: float) -> Times:
    """Calls that end with their result in main memory, and need no warm-up: by the clock, until ``seconds`` are spent.

    At least three, at most ``repeats``, which counts where it is less than three.
    """
    spent: list[float] = []
    while len(spent) < min(LEAST, repeats) or (len(spent) < repeats and sum(spent) < seconds):
        started = time.perf_counter()
        call()
        spent.append(time.perf_counter() - started)
    return Times(tuple(1e3 * value for value in spent))
