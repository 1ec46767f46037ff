"""Steps that Ctrl-C does not cut in two, and errors of a device or machine that is out of memory."""

import contextlib
import signal
import threading
from collections.abc import Iterator

from dgkit.errors import DgkitError, EngineError


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
