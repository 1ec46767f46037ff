"""What all commands share: errors on two lines, exit codes, progress on stderr, data on stdout."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from dgkit.errors import OutputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from dgkit.progress import Progress

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
TERMINATED = 143  # 128 + SIGTERM
BROKEN_PIPE = 141  # 128 + SIGPIPE
NOT_PATHS = frozenset({"--ray", "--note", "--set"})  # options whose value may be a URL
WEAK_SEGMENTER = 0.2  # mean agreement below which a segmenter cannot tell good pixels from bad ones
LINE_SECONDS = 60.0  # between two lines of a stage without a terminal


def console() -> "Console":
    """Return the console for people: stderr, so that stdout carries data only."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Mapping[str, Any]) -> None:
    """Print data for other programs: one JSON object on stdout; bytes of names that are not UTF-8 become escapes."""
    if sys.stdout is None:
        raise OutputError("cannot print the result: standard output is closed", "send it to a file: > result.json")
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode())
    sys.stdout.flush()


def print_error(message: str, hint: str = "") -> None:
    """Print ``error: ...`` and ``hint: ...``, one line each; line breaks in the texts become spaces."""
    if sys.stderr is None:
        return
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    if hint:
        sys.stderr.write(f"hint: {' '.join(hint.split())}\n")


@contextlib.contextmanager
def progress_bars(stages: Mapping[str, tuple[str, str]] | None = None, *, lines: bool = False) -> "Iterator[Progress]":
    """Show one bar per stage on stderr: count, rate per hour, time left and note; yield the callback that moves them.

    ``stages`` maps names to (description, unit); any other stage is shown by its name. A bar appears with its first
    report, whose ``done`` does not count for the rate. Without a terminal nothing is drawn; ``lines`` then prints one
    line per stage and minute, and one at the end.
    """
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TextColumn("{task.fields[figures]}"),
        progress.TimeElapsedColumn(),
    )
    shown = console()
    with progress.Progress(*columns, console=shown, disable=not shown.is_terminal) as bars:
        tasks: dict[str, tuple[progress.TaskID, float, float]] = {}
        printed: dict[str, float] = {}

        def report(stage: str, done: float, total: float, note: str = "") -> None:
            description, unit = (stages or {}).get(stage, (stage, ""))
            now = time.monotonic()
            if stage not in tasks:
                tasks[stage] = bars.add_task(description, total=total, figures=""), done, now
            task, before, started = tasks[stage]
            rate = rate_text(done - before, total - done, now - started, unit)
            count = f"{int(done)}/{int(total)}"
            figures = f"{count} {unit}".strip() + rate + (f", {note}" if note else "")
            bars.update(task, completed=done, total=total, figures=figures)
            if lines and not shown.is_terminal and (done == total or now - printed.get(stage, 0.0) > LINE_SECONDS):
                printed[stage] = now
                shown.print(f"{stage} {count} {note}", markup=False)

        yield report


def rate_text(done: float, left: float, seconds: float, unit: str) -> str:
    """Return ``, 120 images/hour, 0:04:30 left`` for ``done`` in ``seconds``; empty before anything is done.

    Without a unit only the time left is given.
    """
    if done <= 0 or seconds <= 0:
        return ""
    minutes, rest = divmod(round(left * seconds / done), 60)
    rate = f", {3600 * done / seconds:,.0f} {unit}/hour" if unit else ""
    return f"{rate}, {minutes // 60}:{minutes % 60:02d}:{rest:02d} left"


@contextlib.contextmanager
def interruptible(message: str = "run the same command again to resume") -> Iterator[None]:
    """On Ctrl-C or SIGTERM print "stopped" with ``message`` and exit with code 130 or 143."""
    try:
        yield
    except KeyboardInterrupt as error:
        console().print(f"\nstopped; {message}", markup=False)
        raise typer.Exit(stop_code(error)) from None


def stop_code(error: BaseException) -> int:
    """Return the exit code of a command that a signal stopped."""
    from dgkit.processes import Terminated

    return TERMINATED if isinstance(error, Terminated) else INTERRUPTED


def refuse_urls(arguments: Sequence[str]) -> None:
    """Raise UsageError if an argument is a URL; the config classes check ``--set`` themselves."""
    from dgkit.files import refuse_url

    for before, argument in zip(("", *arguments), arguments, strict=False):
        if before not in NOT_PATHS and argument.partition("=")[0] not in NOT_PATHS:
            refuse_url(argument)


def size_text(count: int) -> str:
    """Return ``100 MiB`` for a number of bytes."""
    size, units = float(count), ["B", "KiB", "MiB", "GiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "B" or size >= 100 else f"{size:.1f} {units[0]}"


def chosen_model(model: str | None, random: str | None) -> str | None:
    """Return the model that MODEL and ``--random`` select; UsageError if both are given."""
    from dgkit.errors import UsageError

    if random is None:
        return model
    if model is not None:
        raise UsageError(f"the model {model} and --random {random} cannot be combined", "drop one of the two")
    return f"random:{random}"


def say(message: str) -> None:
    """Print a line for people on stderr."""
    console().print(message, markup=False)


def warn_of_weak_segmenter(agreement: float | None, consequence: str, flag: str) -> None:
    """Print a warning if the mean agreement of a segmenter with labels, 0..1, is below :data:`WEAK_SEGMENTER`."""
    if agreement is not None and agreement < WEAK_SEGMENTER:
        seen = f"the segmenter sees only {agreement:.1%} of the pixels as labelled"
        say(f"warning: {seen}; {consequence}, use another {flag}")


def print_table(table: "Table") -> None:
    """Print a table on stdout; lines are folded on a terminal only, so that files and programs get whole lines."""
    from rich.console import Console

    shown = Console(highlight=False)
    if not shown.is_terminal:
        shown.width = 240
    shown.print(table)
