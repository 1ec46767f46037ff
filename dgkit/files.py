"""Files that are either complete or absent, digests, and the cache folder.

A file is written under a temporary name in its own folder and then renamed. Readers and later runs therefore never see
half a file, whatever killed the writer.
"""

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import platform
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from dgkit.errors import OutputError, UsageError

# Name, process and, since two containers on one disk share process numbers, where it runs and a random part.
_TEMPORARY = re.compile(r"^\..+\.(\d+)(?:-([0-9a-f]{8})-[0-9a-f]{16})?\.tmp$", re.DOTALL)
_NAME_BYTES = 150  # of the final name in a temporary one
_STALE_SECONDS = 60.0  # without a write, after which a temporary file of another machine or container is stale
_URL = re.compile(r"(?:[^/]*=)?([A-Za-z][A-Za-z0-9+.-]+)://")  # one letter is a drive
_SCHEMES = (
    "s3|s3a|s3n|gs|gcs|hf|https?|ftps?|sftp|ssh|file|az|abfss?|adl|wasbs?|hdfs|webhdfs|dbfs|oci|oss|r2|b2|smb|memory"
)
_COLLAPSED = re.compile(rf"({_SCHEMES}):/", re.IGNORECASE)  # Path("s3://a") is "s3:/a"
LONGEST_RECORD = 64 << 20  # bytes of a file of settings or of a summary
_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
# What systems and file servers add to folders, in lower case; all names that begin with a dot count as well.
_SYSTEM = frozenset(
    ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "__pycache__", "@eadir", "#recycle", "@recycle",
     "#snapshot", "~snapshot", "@tmp", "@sharebin", "@recently-snapshot", "$recycle.bin", "system volume information",
     "found.000", "lost+found", "network trash folder", "temporary items")
)  # fmt: skip


def local_path(value: Path | str) -> Path:
    """Return ``value`` as a path; colons are allowed in names.

    Raises UsageError for a URL such as ``s3://bucket/folder``, which pathlib would take for a folder ``s3:``.
    """
    refuse_url(value)
    return Path(value)


def user_path(value: Path | str) -> Path:
    """Return :func:`local_path` with ``~`` and ``~user`` replaced by home folders. Raises UsageError without one."""
    path = local_path(value)
    try:
        return path.expanduser()
    except RuntimeError as error:
        home = path.parts[0]
        raise UsageError(f"{path}: there is no home folder {home}", f"write ./{path} for a folder {home}") from error


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden (``.DS_Store``, ``._a.png``) or made by a system (``@eaDir``)."""
    return name.startswith(".") or name.lower() in _SYSTEM


def refuse_url(value: Path | str) -> None:
    """Raise UsageError if ``value``, or its part after ``=`` as in ``gta=DIR``, is a URL.

    A Path is one if it has a common scheme and lost a slash after it.
    """
    text = str(value)
    match = _URL.match(text) or (_COLLAPSED.match(text) if isinstance(value, Path) else None)
    if match is None:
        return
    scheme, rest = match[1].lower(), text[match.end() :].lstrip("/")
    url = f"{match[1]}://{rest}" if scheme != "file" else f"file:///{rest}"
    hints = {
        "file": f"pass the path /{rest}",
        "hf": f"a model of the Hugging Face hub is written without hf://: {rest}; copy anything else to a local folder",
    }
    raise UsageError(
        f"{url} is a URL; paths must be local files or folders",
        hints.get(scheme, "copy it to a local folder, or mount it, and pass that path"),
    )


def output_error(path: Path, error: OSError) -> OutputError:
    """Return the OutputError for ``error`` at ``path``, with a hint at what to do."""
    folder = "output folder"
    if path.absolute().is_relative_to(cache_folder().absolute()):
        folder = "output or cache folder (environment variable DGKIT_CACHE)"
    if error.errno in _FULL:
        return OutputError(
            f"cannot write {path}: the disk is full",
            f"free some space or choose another {folder}, then run the same command again",
        )
    if error.errno in _DENIED:
        return OutputError(
            f"cannot write {path}: permission denied",
            f"change its permissions, or choose another {folder}",
        )
    return OutputError(f"cannot write {path}: {error.strerror or error}", f"choose another {folder}")


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; rename it if the block succeeds, else remove it.

    Missing parent folders are created. Raises OutputError for any ``OSError`` of the folder, the block or the rename
    (full disk, no permission, a folder in the way).
    """
    path = Path(path)
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield temporary
        temporary.replace(path)
    except OSError as error:
        _remove(temporary)
        raise output_error(path, error) from error
    except BaseException:
        _remove(temporary)
        raise


def atomic_write(path: Path | str, data: bytes) -> None:
    """Write ``data`` to ``path`` so that the file is complete or absent. Raises OutputError."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_changed(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` unless the file holds it already, so that a repeated run touches nothing."""
    if not path.is_file() or path.stat().st_size != len(data) or path.read_bytes() != data:
        atomic_write(path, data)


def hard_link(source: Path, target: Path) -> bool:
    """Make ``target`` a hard link to the file ``source`` and return True; return False where a copy is needed.

    That is so for a symbolic link, which a hard link would repeat, so that ``target`` points outside its own folder or
    at nothing, and for a file system without hard links. ``target`` is complete or absent at any time.
    """
    temporary = temporary_path(target)
    try:
        if source.is_symlink():
            return False
        if target.exists() and not target.is_symlink() and source.samefile(target):
            return True  # the rename below would leave the temporary file
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        os.link(source, temporary)
        temporary.replace(target)
    except OSError:
        _remove(temporary)
        return False
    return True


def json_bytes(value: Any) -> bytes:
    """Return ``value`` as indented JSON in UTF-8, with a line feed at the end."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def json_line(value: Any) -> bytes:
    """Return ``value`` as one line of JSON in UTF-8, with a line feed at the end. Raises ValueError for nan and inf.

    Bytes of a file name that are not UTF-8, which Python holds as lone surrogates, become escapes.
    """
    return (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace")


def parse_json(data: bytes | str) -> Any:
    """Return the value of a JSON text in UTF-8, with or without a byte order mark.

    Raises ValueError with the reason, also for numbers that are not finite (``NaN``, ``1e999``) and for a text nested
    deeper than Python's recursion limit; json.JSONDecodeError or UnicodeDecodeError if the text is not JSON at all.
    """
    text = data.decode("utf-8-sig") if isinstance(data, bytes) else data.removeprefix("\ufeff")
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text} is not finite")
    return value


def temporary_path(path: Path) -> Path:
    """Return a new name next to ``path`` under which this process writes it; no other process has the same."""
    name = os.fsdecode(os.fsencode(path.name)[:_NAME_BYTES])
    return path.with_name(f".{name}.{os.getpid()}-{_process_space()}-{secrets.token_hex(8)}.tmp")


def is_temporary(name: str) -> bool:
    """Return whether a file name is one of :func:`temporary_path`."""
    return _TEMPORARY.match(name) is not None


def remove_stale_temporaries(folder: Path | str) -> int:
    """Remove the temporary files that a killed run left in ``folder`` (not in subfolders); return their number.

    Call it before writing starts: files of this process, and of processes that no longer run, count as stale. Whether
    a process of another machine or container runs cannot be seen here: its files are stale a minute after the last
    write.
    """
    folder = Path(folder)
    removed = 0
    for entry in folder.iterdir() if folder.is_dir() else ():
        match = _TEMPORARY.match(entry.name)
        if match and _is_stale(entry, int(match[1]), match[2]):
            removed += _remove(entry)
    return removed


@functools.cache
def _process_space() -> str:
    """Return 8 hexadecimal digits of where process numbers are unique: this boot of the machine, this container."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), str(Path("/proc/self/ns/pid").readlink())]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


def _is_stale(path: Path, pid: int, space: str | None) -> bool:
    if space in (None, _process_space()):  # None: written by dgkit 0.1
        return not _alive_elsewhere(pid)
    try:
        return time.time() - path.stat().st_mtime > _STALE_SECONDS
    except OSError:
        return False


def open_regular(path: Path | str, limit: int | None = None) -> BufferedReader:
    """Open a file for reading. Raises OSError, also for pipes, devices, and files of more than ``limit`` bytes.

    Opening a pipe would wait for a writer, and reading a device need not end.
    """
    descriptor = _open_regular(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        if limit is not None and size > limit:
            raise OSError(errno.EFBIG, f"it has {size / 2**20:,.0f} MiB; the limit is {limit >> 20} MiB", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def open_append(path: Path | str) -> BinaryIO:
    """Open a file for writing at its end, or create it. Raises OSError, also for pipes and devices."""
    return os.fdopen(_open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab")


def _open_regular(path: Path | str, flags: int) -> int:
    """Return a descriptor of a regular file. Opening a pipe without O_NONBLOCK would wait for its other end."""
    try:
        descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0), 0o666)
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    except OSError as error:
        if error.errno == errno.ENXIO:  # a pipe that nobody reads, a socket
            raise _irregular(path) from error
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise _irregular(path)


def _irregular(path: Path | str) -> OSError:
    return OSError(errno.EINVAL, "it is a pipe, a socket or a device, not a file", str(path))


def read_file(path: Path | str, limit: int = LONGEST_RECORD) -> bytes:
    """Return the content of a file. Raises OSError as :func:`open_regular`."""
    with open_regular(path, limit) as stream:
        return stream.read()


def file_stamp(path: Path | str) -> tuple[int, int]:
    """Return size and modification time of a file, (0, 0) if there is none: the key of what was read from it."""
    try:
        status = Path(path).stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def digest_file(path: Path | str) -> str:
    """Return the SHA-256 of a file in hexadecimal. Raises ``OSError``."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cache_folder() -> Path:
    """Return the folder for reproducible files; it is not created here.

    It is ``$DGKIT_CACHE``, else ``$XDG_CACHE_HOME/dgkit``, else ``~/.cache/dgkit``.
    """
    if own := os.environ.get("DGKIT_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "dgkit"


def writable_cache() -> Path:
    """Return :func:`cache_folder`, created, or if it cannot be written a folder in the system's temporary directory.

    The latter belongs to this user alone (mode 0700): content of a cache is trusted. A folder of the expected name that
    belongs to someone else, or that others may use, is left alone in favour of a new one for this process.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    except OSError:
        pass
    return _private_folder()


@functools.cache
def _private_folder() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"dgkit-{user}"
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == user and not status.st_mode & 0o077:
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="dgkit-"))


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
