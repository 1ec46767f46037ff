"""Context managers for steps that signals must not interrupt, and for out-of-memory errors."""

import contextlib
import signal
import threading
from collections.abc import Iterator

from dgkit.errors import DgkitError, EngineError


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the end of the block, so that no image is left without label and manifest line."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives signals
        return
    held: list[int] = []
    before = {
        number: signal.signal(number, lambda received, frame: held.append(received))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if held:
        signal.raise_signal(held[0])


@contextlib.contextmanager
def memory_errors(batch: int) -> Iterator[None]:
    """Raise EngineError that suggests a smaller ``--batch`` if the block runs out of memory."""
    try:
        yield
    except DgkitError:
        raise
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if not isinstance(error, MemoryError) and "out of memory" not in text and "allocate memory" not in text:
            raise
        raise EngineError(
            f"out of memory with --batch {batch}: {text.splitlines()[0] if text else 'allocation failed'}",
            f"use a smaller batch: --batch {max(1, batch // 2)}",
        ) from error
