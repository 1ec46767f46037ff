"""Time calls after a warm-up: with CUDA events on a GPU, by the clock elsewhere."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

LEAST = 3  # minimum number of timed calls
WARM_UP = 3  # calls


@dataclass(frozen=True)
class Times:
    """Milliseconds of each timed call."""

    milliseconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median."""
        return float(np.median(self.milliseconds))

    @property
    def p95(self) -> float:
        """95th percentile, interpolated between neighbouring calls."""
        return float(np.percentile(self.milliseconds, 95))

    @property
    def least(self) -> float:
        """Fastest call."""
        return min(self.milliseconds)

    def row(self, samples: int) -> dict[str, float | int]:
        """Return the cells of a row whose calls have ``samples`` samples each."""
        median = self.median
        return {
            "calls": len(self.milliseconds),
            "ms_median": median,
            "ms_p95": self.p95,
            "ms_sample": median / samples,
        }


def time_calls(call: Callable[[], object], device: torch.device, repeats: int, seconds: float) -> Times:
    """Time as many calls as fit into ``seconds``, between three and ``repeats``, after three warm-up calls.

    The warm-up ends early once it has taken a quarter of ``seconds``. On a GPU calls are queued without waiting for
    each other, as in use, so the time of a call is that of the GPU or of the CPU that feeds it, whichever is slower.
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
    """Wait until a GPU is idle; do nothing for a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clock_calls(call: Callable[[], object], repeats: int, seconds: float) -> Times:
    """Time calls by the clock until ``seconds`` are spent, without a warm-up; results must end in main memory.

    At least three calls are made, but never more than ``repeats``.
    """
    spent: list[float] = []
    while len(spent) < min(LEAST, repeats) or (len(spent) < repeats and sum(spent) < seconds):
        started = time.perf_counter()
        call()
        spent.append(time.perf_counter() - started)
    return Times(tuple(1e3 * value for value in spent))
