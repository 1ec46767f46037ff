"""Importing large libraries."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Pause garbage collection in the block, in which large libraries are imported.

    The collector would scan their objects many times and find nothing: a fifth of the time of an import.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
