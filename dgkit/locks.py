"""One process at a time in a folder of caches: those that start together all ask for the same files."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def locked(folder: Path, name: str = "lock", *, wait: bool = True) -> Iterator[bool]:
    """Wait until no other process (or thread) is inside, and yield True; with ``wait`` off, yield False at once where
    one is.

    The lock ends with the block or with the process, however that ends. ``folder`` must exist; the file ``name`` in it
    is there only while somebody is inside or waits. Raises ``OSError``.
    """
    path = folder / name
    stream = _enter(path, wait)
    if stream is None:
        yield False
        return
    with stream:
        try:
            yield True
        finally:
            if _is_file(stream, path):
                path.unlink(missing_ok=True)


def _enter(path: Path, wait: bool) -> BinaryIO | None:
    while True:
        stream = open(path, "ab")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_file(stream, path):
                return stream
        except BlockingIOError:
            stream.close()
            return None
        except BaseException:
            stream.close()
            raise
        stream.close()  # whoever was inside removed this file when leaving: the lock that counts is on a new one


def _is_file(stream: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False
