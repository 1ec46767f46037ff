"""What all commands share: errors on two lines, exit codes, progress on stderr, data on stdout."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
BROKEN_PIPE = 141  # 128 + SIGPIPE

Report = Callable[[str, float, float], None]


def console() -> "Console":
    """Where people read: stderr, so that stdout carries data only."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Mapping[str, Any]) -> None:
    """Data for other programs: one JSON object on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_error(message: str, hint: str = "") -> None:
    """``error: ...`` and ``hint: ...``, one line each, whatever line breaks the texts hold."""
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    if hint:
        sys.stderr.write(f"hint: {' '.join(hint.split())}\n")


@contextlib.contextmanager
def progress_bars(stages: Mapping[str, tuple[str, str]]) -> Iterator[Report]:
    """Bars with count, rate per hour and time left on stderr; yields ``report(stage, done, total)``.

    ``stages`` maps names to (description, unit). A bar appears with its first report, whose ``done`` does not count for
    the rate. Without a terminal nothing is drawn.
    """
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
    )
    shown = console()
    with Progress(*columns, console=shown, disable=not shown.is_terminal) as progress:
        tasks: dict[str, tuple[TaskID, float, float]] = {}

        def report(stage: str, done: float, total: float) -> None:
            description, unit = stages[stage]
            if stage not in tasks:
                tasks[stage] = progress.add_task(description, total=total, figures=""), done, time.monotonic()
            task, before, started = tasks[stage]
            rate = rate_text(done - before, total - done, time.monotonic() - started, unit)
            progress.update(task, completed=done, total=total, figures=f"{int(done)}/{int(total)} {unit}{rate}")

        yield report


def rate_text(done: float, left: float, seconds: float, unit: str) -> str:
    """``, 120 images/hour, 0:04:30 left`` for ``done`` in ``seconds``; empty before anything is done."""
    if done <= 0 or seconds <= 0:
        return ""
    minutes, rest = divmod(round(left * seconds / done), 60)
    return f", {3600 * done / seconds:,.0f} {unit}/hour, {minutes // 60}:{minutes % 60:02d}:{rest:02d} left"


def size_text(count: int) -> str:
    """``100 MiB`` for a number of bytes."""
    size, units = float(count), ["B", "KiB", "MiB", "GiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "B" or size >= 100 else f"{size:.1f} {units[0]}"


def chosen_model(model: str | None, random: str | None) -> str | None:
    """The model that MODEL and ``--random`` stand for together; UsageError where both are given."""
    from dgkit.errors import UsageError

    if random is None:
        return model
    if model is not None:
        raise UsageError(f"the model {model} and --random {random} are given, allowed is one", "drop one of the two")
    return f"random:{random}"


def say(message: str) -> None:
    """Tell people on stderr what is being done."""
    console().print(message, markup=False)


def print_table(table: "Table") -> None:
    """A table on stdout, folded for the terminal only: a file or another program gets whole lines."""
    from rich.console import Console

    shown = Console(highlight=False)
    if not shown.is_terminal:
        shown.width = 240
    shown.print(table)
