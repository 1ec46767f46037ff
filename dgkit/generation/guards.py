"""One process at a time in a folder, steps that Ctrl-C does not cut in two, and want of memory told as such."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from dgkit.errors import DgkitError, EngineError, OutputError
from dgkit.files import output_error


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the end of the block, so that no image is left without its label and its line."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread hears signals
        return
    held: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        raise KeyboardInterrupt


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock, or raise OutputError at once where another process holds it.

    The system frees the lock of a killed process; its file is taken over.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no fcntl: two runs in one folder are then the user's care
        yield
        return
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise output_error(path, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever finished between the two calls removed the file that was opened here.
            if path.exists() and os.fstat(handle).st_ino == path.stat().st_ino:
                break
        except BlockingIOError as error:
            os.close(handle)
            raise OutputError(
                f"another run is writing to {path.parent}", "wait for it to end, or choose another folder"
            ) from error
        os.close(handle)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(handle)


def held(path: Path) -> bool:
    """Whether another process holds the lock of :func:`locked`; nothing is written to find out."""
    try:
        import fcntl

        with open(path, "rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return False
    return False


@contextlib.contextmanager
def memory_errors(batch: int) -> Iterator[None]:
    """Raise EngineError with a hint at ``--batch`` where the block runs out of memory."""
    try:
        yield
    except DgkitError:
        raise
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if not isinstance(error, MemoryError) and "out of memory" not in text and "allocate memory" not in text:
            raise
        raise EngineError(
            f"not enough memory for --batch {batch}: {text.splitlines()[0] if text else 'allocation failed'}",
            f"use a smaller batch: --batch {max(1, batch // 2)}",
        ) from error
