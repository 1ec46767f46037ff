"""How much a command prints on stderr: ``-q`` only errors and the result, ``-v`` also details, with time stamps."""

import logging
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from dgkit.cli.terminal import console

QUIET, NORMAL, VERBOSE = -1, 0, 1
FLAGS = {"-q": QUIET, "--quiet": QUIET, "-v": VERBOSE, "--verbose": VERBOSE}


@dataclass
class _Invocation:
    """The command that runs: how much it prints, and its command line."""

    level: int = NORMAL
    command: str = "dgkit"


_invocation = _Invocation()


def begin_command(arguments: Sequence[str]) -> list[str]:
    """Note a command line, and return its arguments with ``-q`` and ``-v`` first, so that they may stand anywhere."""
    _invocation.command = shlex.join(["dgkit", *arguments])
    set_verbosity(NORMAL)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    flags = [argument for argument in arguments[:end] if argument in FLAGS]
    return [*flags, *(argument for argument in arguments[:end] if argument not in FLAGS), *arguments[end:]]


def command_line() -> str:
    """Return the command line that runs, quoted for a shell."""
    return _invocation.command


def set_verbosity(level: int) -> None:
    """Print only errors and results (QUIET), what a user needs (NORMAL), or also what the package logs (VERBOSE)."""
    _invocation.level = level
    logger = logging.getLogger("dgkit")
    for handler in [handler for handler in logger.handlers if isinstance(handler, _Details)]:
        logger.removeHandler(handler)
    logger.setLevel(logging.DEBUG if level >= VERBOSE else logging.NOTSET)
    if level >= VERBOSE:
        logger.addHandler(_Details())


def is_quiet() -> bool:
    """Return whether only errors and results are printed."""
    return _invocation.level <= QUIET


def stamped(text: str) -> str:
    """Return a line of a log: local date and time, then ``text``."""
    return f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}"


class _Details(logging.Handler):
    """Prints what the package logs: next to the progress bars, if there are any."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record as one line."""
        if sys.stderr is not None:
            console().print(stamped(record.getMessage()), markup=False)
