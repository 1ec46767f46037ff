"""Files that are either complete or absent, digests, and the folder for caches.

A file is written to a temporary name in its own folder and renamed, so a reader or a later run never meets half of
one, whatever killed the writer.
"""

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from dgkit.errors import OutputError

_TEMPORARY = re.compile(r"^\..+\.(\d+)\.tmp$")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


def output_error(path: Path, error: OSError) -> OutputError:
    """The :class:`OutputError` that tells a user what to do about ``error`` at ``path``."""
    if error.errno in _FULL:
        return OutputError(
            f"cannot write {path}: the disk is full",
            "free some space or choose another output folder, then run the same command again",
        )
    if error.errno in _DENIED:
        return OutputError(
            f"cannot write {path}: permission denied",
            "choose an output folder you may write to, or change its permissions",
        )
    return OutputError(f"cannot write {path}: {error.strerror or error}", "choose another output folder")


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it there when the block ends well, remove it otherwise.

    Missing parent folders are made. Raises :class:`OutputError` for any ``OSError`` of the folder, the block or the
    rename (full disk, no permission, a folder in the way).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        _remove(temporary)
        raise output_error(path, error) from error
    except BaseException:
        _remove(temporary)
        raise


def atomic_write(path: Path | str, data: bytes) -> None:
    """Write ``data`` to ``path`` so that the file is complete or absent. Raises :class:`OutputError`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def remove_stale_temporaries(folder: Path | str) -> int:
    """Remove temporaries that a killed run left in ``folder`` (not below it); return how many.

    Call it before writing starts: a temporary of this process, or of a process that no longer runs on this machine,
    counts as stale.
    """
    folder = Path(folder)
    removed = 0
    for entry in folder.iterdir() if folder.is_dir() else ():
        match = _TEMPORARY.match(entry.name)
        if match and not _alive_elsewhere(int(match[1])):
            removed += _remove(entry)
    return removed


def digest_file(path: Path | str) -> str:
    """SHA-256 of the file's bytes, in hex. Raises ``OSError``."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cache_folder() -> Path:
    """Folder for files that can be made again: ``$DGKIT_CACHE``, else ``$XDG_CACHE_HOME/dgkit`` or ``~/.cache/dgkit``.

    It is not created here.
    """
    if own := os.environ.get("DGKIT_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "dgkit"


def _alive_elsewhere(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True
