"""``dgkit`` command lines in processes that end badly; functions of a module, because other processes import them."""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any


def run(arguments: Sequence[str]) -> None:
    """The command line, as the whole life of a process."""
    import torch

    from dgkit.cli.app import main

    torch.set_num_threads(1)
    sys.exit(main(arguments))


def run_slowly(arguments: Sequence[str], milliseconds: int) -> None:
    """The command line on a disk that takes so long for each rename; it hears Ctrl-C."""
    # A shell that starts the tests in the background has them ignore it, and every process below inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    replace = os.replace

    def slow_replace(*args: Any, **kwargs: Any) -> None:
        time.sleep(milliseconds / 1000)
        replace(*args, **kwargs)

    os.replace = slow_replace
    run(arguments)


def run_until(arguments: Sequence[str], operation: int) -> None:
    """The command line, killed at its file operation number ``operation`` (0, 1, ...).

    Operations are both sides of every rename, and every write to an open file descriptor (the manifest), which is cut
    in half: what a kill can leave behind.
    """
    tempfile.gettempdir()  # looks for its folder with a write, when some library first asks for it
    left = [operation]
    replace, write = os.replace, os.write

    def step() -> bool:
        left[0] -= 1
        return left[0] < 0

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def dying_replace(*args: Any, **kwargs: Any) -> None:
        if step():
            die()
        replace(*args, **kwargs)
        if step():
            die()

    def dying_write(descriptor: int, data: bytes) -> int:
        if descriptor > 2 and step():
            write(descriptor, data[: len(data) // 2])
            die()
        return write(descriptor, data)

    os.replace, os.write = dying_replace, dying_write
    run(arguments)
