"""What all commands share: errors on two lines, exit codes, progress on stderr, data on stdout."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from dgkit.cli.log_lines import LogLines, StageFigures, Stages, log_interval
from dgkit.cli.terminal import console, live
from dgkit.cli.verbosity import command_line, is_quiet, stamped
from dgkit.errors import OutputError
from dgkit.progress import ignore

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from dgkit.progress import Progress

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
TERMINATED = 143  # 128 + SIGTERM
BROKEN_PIPE = 141  # 128 + SIGPIPE
NOT_PATHS = frozenset({"--ray", "--note", "--set"})  # options whose value may be a URL
WEAK_SEGMENTER = 0.2  # mean agreement below which a segmenter cannot tell good pixels from bad ones
ENGINE_STAGES = {"engines": ("Building engines, once per model", None)}  # of every command that runs a model


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
def progress_bars(stages: Stages | None = None) -> "Iterator[Progress]":
    """Show the progress of the stages on stderr; yield the callback that they report to.

    ``stages`` maps names to (description, unit); any other stage is shown by its name. On a terminal each stage gets a
    bar with count, rate per hour, time left and note, as soon as it reports for the first time. Elsewhere the same
    figures are written as lines of a log, see :class:`~dgkit.cli.log_lines.LogLines`. ``--quiet`` shows neither.
    """
    shown, known = console(), {**ENGINE_STAGES, **(stages or {})}
    if is_quiet() or sys.stderr is None:
        yield ignore
    elif not shown.is_terminal:
        lines = LogLines(known, lambda line: say(stamped(line)), log_interval())
        yield lines.report
    else:
        with _bars(known, shown) as report:
            yield report


@contextlib.contextmanager
def _bars(stages: Stages, shown: "Console") -> "Iterator[Progress]":
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TextColumn("{task.fields[figures]}"),
        progress.TimeElapsedColumn(),
    )
    with progress.Progress(*columns, console=shown) as bars:
        tasks: dict[str, tuple[progress.TaskID, StageFigures]] = {}

        def report(stage: str, done: float, total: float, note: str = "") -> None:
            now = time.monotonic()
            if stage not in tasks:
                begun = StageFigures.begin(stages, stage, done, now)
                tasks[stage] = bars.add_task(begun.description, total=total, figures=""), begun
            task, figures = tasks[stage]
            figures.observe(done, now)
            bars.update(task, completed=done, total=total, figures=figures.text(done, total, note, now))

        live.append(shown)
        try:
            yield report
        finally:
            live.remove(shown)


@contextlib.contextmanager
def interruptible(message: str = "run the same command again to resume") -> Iterator[None]:
    """On Ctrl-C or SIGTERM print "stopped", what was dropped, ``message`` and the command; exit with code 130 or 143.

    What was dropped are the notes of the exception.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        dropped = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
        say(f"stopped{dropped}; {message}: {command_line()}")
        raise typer.Exit(stop_code(error)) from None


def stop_code(error: BaseException) -> int:
    """Return the exit code of a command that a signal stopped."""
    from dgkit.processes import Terminated

    return TERMINATED if isinstance(error, Terminated) else INTERRUPTED


def check_paths(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with ``~`` at the beginning replaced by the home folder: a shell leaves a quoted one.

    Raises UsageError if an argument is a URL, or empty: as a path it would be the current folder. The config classes
    check ``--set`` themselves.
    """
    from dgkit.errors import UsageError
    from dgkit.files import refuse_url, user_path

    checked = list(arguments)
    for number, (before, argument) in enumerate(zip(("", *arguments), arguments, strict=False)):
        if before in NOT_PATHS or argument.partition("=")[0] in NOT_PATHS:
            continue
        refuse_url(argument)
        if not argument or (argument.startswith("--") and argument.endswith("=")):
            option = argument.rstrip("=") or (before if before.startswith("-") else "an argument")
            raise UsageError(f"{option} is empty", "check that the shell variable has a value, or leave it out")
        if argument == "~" or argument.startswith("~/"):
            checked[number] = str(user_path(argument))
    return checked


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
    """Print a line for people on stderr: a result, or a warning about one."""
    console().print(message, markup=False)


def warn_of_weak_segmenter(agreement: float | None, consequence: str, flag: str) -> None:
    """Print a warning if the mean agreement of a segmenter with labels, 0..1, is below :data:`WEAK_SEGMENTER`."""
    if agreement is not None and agreement < WEAK_SEGMENTER:
        seen = f"the segmenter sees only {agreement:.1%} of the pixels as labelled"
        say(f"warning: {seen}; {consequence}, use another {flag}")


def inform(message: str) -> None:
    """Print a line about what a command is doing, unless ``--quiet`` is set."""
    if not is_quiet():
        say(message)


def print_table(table: "Table") -> None:
    """Print a table on stdout; lines are folded on a terminal only, so that files and programs get whole lines."""
    from rich.console import Console

    shown = Console(highlight=False)
    if not shown.is_terminal:
        shown.width = 240
    shown.print(table)
