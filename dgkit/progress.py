"""How long-running work reports progress: one callback for figures, one for lines of text."""

from collections.abc import Callable
from typing import Protocol

Advance = Callable[[float, float], None]
"""Called with (done, total) of a single stage."""

Notify = Callable[[str], None]
"""Called with one line of text for the user."""


class Progress(Protocol):
    """Called as ``progress(stage, done, total)``; ``done`` may be fractional and never decreases within a stage.

    ``note`` is a short text to show next to the figures, such as the current loss.
    """

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Report that ``done`` of ``total`` units of ``stage`` are finished."""


def ignore(stage: str, done: float, total: float, note: str = "") -> None:
    """Discard a report: the default where no progress is wanted."""


def within(progress: Progress | None, stage: str) -> Advance:
    """Return a callback ``(done, total)`` that reports to ``progress`` under the name ``stage``."""

    def advance(done: float, total: float) -> None:
        if progress is not None:
            progress(stage, done, total)

    return advance
