"""One process at a time in a folder of caches: those of one training all ask for the same files at its start."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no other process is inside; the lock ends with the block or with the process, however that ends.

    ``folder`` must exist. Raises ``OSError``.
    """
    with open(folder / "lock", "ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
