"""Context managers for steps that signals must not interrupt, and for out-of-memory errors."""

import contextlib
import re
import signal
import threading
from collections.abc import Iterator

from dgkit.errors import EngineError, OutOfMemory

_MEMORY = re.compile(r"out ?of ?memory|allocate memory", re.IGNORECASE)  # of torch, ONNX Runtime, TensorRT, OpenVINO


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
    """Raise OutOfMemory that suggests a smaller ``--batch`` if the block runs out of memory, on any engine."""
    try:
        yield
    except (MemoryError, RuntimeError, EngineError) as error:
        text = str(error)
        if not isinstance(error, MemoryError) and not _MEMORY.search(text):
            raise
        smaller = f"use a smaller batch: --batch {batch // 2}"
        raise OutOfMemory(
            f"out of memory with --batch {batch}: {text.splitlines()[0] if text else 'allocation failed'}",
            smaller if batch > 1 else "use --dtype fp16, or the option weight_streaming of a TensorRT recipe",
        ) from error
