"""``dgkit`` commands in processes that are slow or get killed; at module level, where such a process imports them."""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any


def run(arguments: Sequence[str]) -> None:
    """Run a command line and exit."""
    import torch

    from dgkit.cli.app import main

    torch.set_num_threads(1)
    sys.exit(main(arguments))


def run_slowly(arguments: Sequence[str], milliseconds: int) -> None:
    """Run a command line on a disk that takes this long for each rename; Ctrl-C is enabled."""
    # Tests started in the background by a shell ignore SIGINT, and all child processes inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    replace = os.replace

    def slow_replace(*args: Any, **kwargs: Any) -> None:
        time.sleep(milliseconds / 1000)
        replace(*args, **kwargs)

    os.replace = slow_replace
    run(arguments)


def run_until(arguments: Sequence[str], operation: int) -> None:
    """Run a command line and kill it at its file operation number ``operation`` (0, 1, ...).

    Operations are the moments before and after every rename, and every write to an open file descriptor (the manifest),
    of which only half is written.
    """
    tempfile.gettempdir()  # its first call writes a file to find its folder
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
