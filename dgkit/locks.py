"""Locks: one process or thread at a time in a folder.

The system releases a lock when its process ends, however it ends, and takes over the file that a killed process left. A
lock file exists only while somebody holds it or waits for it.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dgkit.errors import OutputError
from dgkit.files import output_error

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK = ".dgkit.lock"  # in an output folder


@contextlib.contextmanager
def locked(folder: Path, name: str = "lock", *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock ``name`` of ``folder`` and yield True; without ``wait`` yield False at once if it is taken.

    Raises OSError, for example in a folder that may only be read.
    """
    path = folder / name
    lock = _acquire(path, wait)
    if lock is None:
        yield False
        return
    own = _identity(path)
    try:
        yield True
    finally:
        if _identity(path) == own:  # not a file that replaced it meanwhile
            with contextlib.suppress(OSError):
                path.unlink()
        lock.release()


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the lock of an output folder. Raises OutputError at once if another run holds it or it cannot be made."""
    with contextlib.ExitStack() as stack:
        try:
            entered = stack.enter_context(locked(folder, LOCK, wait=False))
        except OSError as error:
            raise output_error(folder / LOCK, error) from error
        if not entered:
            raise OutputError(f"another run is writing to {folder}", "wait for it to end, or choose another folder")
        yield


def has_writer(folder: Path) -> bool:
    """Return whether a run holds the lock of an output folder; the folder is left as it is."""
    path = folder / LOCK
    before = _identity(path)
    if before is None:
        return False
    try:
        lock = _acquire(path, wait=False)
    except OSError:
        return False
    if lock is None:
        return True
    if _identity(path) != before:  # its holder left since the first look, and this is a new file
        path.unlink(missing_ok=True)
    lock.release()
    return False


def _acquire(path: Path, wait: bool) -> "BaseFileLock | None":
    from filelock import FileLock, Timeout  # takes 0.1 s

    # A soft lock, which would do on file systems without flock, outlives a killed process.
    lock = FileLock(path, blocking=wait, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
