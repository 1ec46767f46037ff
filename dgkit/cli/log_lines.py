"""Progress as figures: next to a bar on a terminal, or as lines of a log where there is none."""

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dgkit.errors import UsageError

VARIABLE = "DGKIT_LOG_INTERVAL"
FIRST_SECONDS = 10.0  # from the first line of a stage to the second
SECONDS = 30.0  # between later lines
MEASURED_SECONDS = 1.0  # of a stage before it has a rate
Stages = Mapping[str, tuple[str, str | None]]
"""Description and unit of each stage; a stage without a unit shows its count alone."""


@dataclass
class StageFigures:
    """One stage; its rate counts what was done, and the time, since the first advance.

    Whatever comes before that, such as units of an earlier run, a warm-up or waiting for a lock, would make the time
    left wrong. A log notes what was ``done`` at the last report, and when the next line is due.
    """

    description: str
    unit: str | None
    before: float
    started: float
    advanced: bool = False
    next_line: float = -math.inf
    done: float = -math.inf

    @classmethod
    def begin(cls, stages: Stages, stage: str, done: float, now: float) -> "StageFigures":
        """Return the figures of a stage whose first report comes now; an unknown one is shown by its name."""
        return cls(*stages.get(stage, (stage, "")), done, now)

    def observe(self, done: float, now: float) -> None:
        """Begin to measure the rate at the first advance; call it with each report."""
        if done > self.before and not self.advanced:
            self.before, self.started, self.advanced = done, now, True

    def text(self, done: float, total: float, note: str, now: float) -> str:
        """Return ``3/16 images, 120 images/hour, 0:06:30 left, note``."""
        count = f"{int(done)}/{int(total)} {self.unit or ''}".rstrip()
        rate = "" if self.unit is None else rate_text(done - self.before, total - done, now - self.started, self.unit)
        return count + rate + (f", {note}" if note else "")


class LogLines:
    """Writes progress as lines: the first report of a stage, one line at most every ``interval`` seconds, the last.

    ``write`` gets each line; ``clock`` returns seconds.
    """

    def __init__(
        self,
        stages: Stages,
        write: Callable[[str], None],
        interval: float = SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stages, self._write, self._interval, self._clock = stages, write, interval, clock
        self._shown: dict[str, StageFigures] = {}

    def report(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Take a report, see :class:`~dgkit.progress.Progress`, and write a line if it is time for one."""
        now, figures = self._clock(), self._shown.get(stage)
        pause = self._interval
        if figures is None or done < figures.done:  # it begins, perhaps again
            pause = min(FIRST_SECONDS, pause)
            figures = self._shown[stage] = StageFigures.begin(self._stages, stage, done, now)
        figures.observe(done, now)
        ends = done >= total and figures.done < total
        if ends or (now >= figures.next_line and done < total):
            figures.next_line = now + pause
            self._write(f"{figures.description} {figures.text(done, total, note, now)}")
        figures.done = done


def log_interval() -> float:
    """Return the seconds between two lines that ``DGKIT_LOG_INTERVAL`` sets, else 30. Raises UsageError."""
    text = os.environ.get(VARIABLE, "")
    try:
        seconds = float(text) if text else SECONDS
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UsageError(f"{VARIABLE} is {text!r}; expected seconds, more than 0", f"for example {VARIABLE}=30")
    return seconds


def rate_text(done: float, left: float, seconds: float, unit: str) -> str:
    """Return ``, 120 images/hour, 0:04:30 left`` for ``done`` in ``seconds``; empty in the first second.

    Without a unit only the time left is given, and after the end only the rate.
    """
    if done <= 0 or seconds < MEASURED_SECONDS:
        return ""
    minutes, rest = divmod(round(left * seconds / done), 60)
    rate = f", {3600 * done / seconds:,.0f} {unit}/hour" if unit else ""
    return rate + (f", {minutes // 60}:{minutes % 60:02d}:{rest:02d} left" if left > 0 else "")
