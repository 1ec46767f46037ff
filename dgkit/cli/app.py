"""The ``dgkit`` command: its subcommands, and how errors are printed.

Every command is a plain function in its own light module; torch is imported when a command runs, not for ``--help``.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from dgkit import __version__
from dgkit.cli.bench import bench
from dgkit.cli.build_engines import build_engines
from dgkit.cli.catalogue import catalogue
from dgkit.cli.check import check
from dgkit.cli.common import BROKEN_PIPE, INTERRUPTED, check_paths, print_error, stop_code
from dgkit.cli.debug import debug
from dgkit.cli.defects import occupy_closed_streams, report_defect
from dgkit.cli.doctor import doctor
from dgkit.cli.engines import engines
from dgkit.cli.eval import evaluate
from dgkit.cli.export import export
from dgkit.cli.filter import filter_labels
from dgkit.cli.generate import generate
from dgkit.cli.judge import judge
from dgkit.cli.merge import merge
from dgkit.cli.options import ConfigCommand
from dgkit.cli.pack import pack
from dgkit.cli.quality import quality
from dgkit.cli.report import report
from dgkit.cli.stats import stats
from dgkit.cli.swap import swap
from dgkit.cli.train import train
from dgkit.cli.verbosity import QUIET, VERBOSE, begin_command, set_verbosity
from dgkit.cli.verify import verify
from dgkit.cli.web_page import web_page
from dgkit.cli.world import world
from dgkit.errors import DgkitError, shown
from dgkit.files import output_error
from dgkit.processes import sigterm_raises

# Typer uses click or, in newer versions, its own copy of click; only what Typer exports works with both.
_WrongCommand: type[BaseException] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError")


_PATH_ERRORS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM)  # mistakes in paths, not defects


class _Commands(TyperGroup):
    """The commands, of which a signal ends any with its own exit code; Typer has one for all."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was parsed."""
        with sigterm_raises():
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt as error:
                print_error("stopped")
                raise typer.Exit(stop_code(error)) from None


app = typer.Typer(
    name="dgkit",
    cls=_Commands,
    help="Label maps in, labelled street scenes in any weather out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("generate", cls=ConfigCommand)(generate)
app.command("app", cls=ConfigCommand)(web_page)
app.command("verify")(verify)
app.command("merge")(merge)
app.command("swap")(swap)
train.command("judge")(judge)
app.add_typer(train, name="train")
app.command("filter", cls=ConfigCommand)(filter_labels)
app.command("report")(report)
app.command("pack")(pack)
app.command("quality")(quality)
app.command("eval", cls=ConfigCommand)(evaluate)
app.command("stats")(stats)
app.command("world")(world)
app.add_typer(export, name="export")
app.command("build-engines", cls=ConfigCommand)(build_engines)
engines.command("check")(check)
engines.command("debug")(debug)
app.add_typer(engines, name="engines")
app.command("bench", cls=ConfigCommand)(bench)
app.command("list")(catalogue)
app.command("doctor")(doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dgkit {__version__}")
        raise typer.Exit()


def _set_verbosity(level: int) -> Callable[[bool], None]:
    return lambda wanted: set_verbosity(level) if wanted else None


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version"),
    quiet: bool = typer.Option(
        False, "--quiet", "-q", callback=_set_verbosity(QUIET), help="Print errors and the result only"
    ),
    verbose: bool = typer.Option(
        False, "--verbose", "-v", callback=_set_verbosity(VERBOSE), help="Print details; also after the command"
    ),
) -> None:
    """Label maps in, labelled street scenes in any weather out."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (by default the program's own) and return its exit code.

    0 success, 1 failure, 2 wrong command, 70 internal error, 130 stopped by Ctrl-C, 141 standard output was closed by
    its reader, 143 stopped by SIGTERM. User-fixable errors print two lines on stderr, ``error:`` and ``hint:``. An
    internal error is a bug in dgkit; its traceback is in a log file that the message names.
    """
    occupy_closed_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(args=begin_command(check_paths(given)), prog_name="dgkit", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except DgkitError as error:
        print_error(error.message, error.hint)
        return error.exit_code
    except _WrongCommand as error:
        return _explain(error)
    except (KeyboardInterrupt, typer.Abort):
        print_error("stopped")
        return INTERRUPTED
    except (OSError, SystemExit) as error:
        return _failed_stream(error, given)
    except MemoryError:
        print_error("out of memory", "close other programs, or use smaller batches and fewer workers")
        return 1
    except Exception as error:
        return report_defect(error, given)
    return code if isinstance(code, int) else 0


def _failed_stream(error: OSError | SystemExit, arguments: Sequence[str]) -> int:
    """Return the exit code after an error of the system, or after click and rich have ended the program for one."""
    broken = next((e for e in (error, error.__context__) if isinstance(e, OSError) and e.errno == errno.EPIPE), None)
    if broken is not None:
        # The reader of stdout has closed it; without this the interpreter reports that once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        with contextlib.suppress(OSError, AttributeError):  # what is left in the buffer cannot be written either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        failure = output_error(Path(os.fsdecode(error.filename or "standard output")), error)
        print_error(failure.message, failure.hint)
        return failure.exit_code
    if error.errno in _PATH_ERRORS and error.filename is not None:
        print_error(f"{shown(os.fsdecode(error.filename))}: {error.strerror}", "check the path and its permissions")
        return 1
    return report_defect(error, arguments)


def _explain(error: Any) -> int:
    message = error.format_message()
    if message:  # empty if no command was given: the help is on the screen already
        path = error.ctx.command_path if error.ctx else "dgkit"
        print_error(message, f"{path} --help shows what is allowed")
    return 2
