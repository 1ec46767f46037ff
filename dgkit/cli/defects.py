"""What happens when a command ends with an exception that dgkit does not expect."""

import os
import platform
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from dgkit import __version__
from dgkit.cli.common import print_error
from dgkit.errors import DgkitError, one_line
from dgkit.files import atomic_write, cache_folder

INTERNAL_ERROR = 70  # EX_SOFTWARE of sysexits.h


def report_defect(error: BaseException, arguments: Sequence[str]) -> int:
    """Write the traceback of ``error`` to a log file, print where it is, and return the exit code.

    The file is in the folder ``errors`` of the cache, or in the temporary folder of the system if that is not writable.
    """
    what = one_line(f"{type(error).__name__}: {error}".removesuffix(": "), 300)
    try:
        path = _write_log(error, arguments)
    except OSError:
        print_error(f"internal error in dgkit {__version__}: {what}", "please report it; no log file could be written")
    else:
        print_error(f"internal error in dgkit {__version__}: {what}", f"please report it with the log file {path}")
    return INTERNAL_ERROR


def _write_log(error: BaseException, arguments: Sequence[str]) -> Path:
    lines = (
        f"dgkit {__version__}, Python {platform.python_version()}, {platform.platform()}",
        f"command: {shlex.join(['dgkit', *arguments])}",
        f"folder: {Path.cwd()}",
        "",
        "".join(traceback.format_exception(error)),
    )
    data = "\n".join(lines).encode("utf-8", "backslashreplace")
    path = cache_folder() / "errors" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    try:
        atomic_write(path, data)
        return path
    except (DgkitError, OSError):
        descriptor, name = tempfile.mkstemp(prefix="dgkit-error-", suffix=".log")
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        return Path(name)


def occupy_closed_streams() -> None:
    """Open the null device where standard input, output or error is closed, so that no file gets their number."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        descriptor = os.open(os.devnull, os.O_RDWR)
        while descriptor <= 2:
            descriptor = os.open(os.devnull, os.O_RDWR)
        os.close(descriptor)
