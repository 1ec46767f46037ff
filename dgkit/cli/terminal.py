"""The console for people: standard error."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

live: "list[Console]" = []
"""The console of the progress bars that are on the screen."""


def console() -> "Console":
    """Return the console for people: stderr, so that stdout carries data only; that of the bars while they show."""
    if live:
        return live[-1]
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)
