"""The manifest of an output folder: one JSON object per line, appended when its files are on disk.

Each append is one write followed by fsync, so a kill can truncate the last line only. A truncated line is ignored by
readers and removed before the next append.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dgkit.errors import InputError
from dgkit.files import atomic_write, output_error


class Manifest:
    """A JSON-lines file at ``path``, which need not exist yet. Only one process may append at a time."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._checked = False

    def append(self, record: dict[str, Any]) -> None:
        """Append ``record`` as one line and wait until it is on disk. Raises OutputError if it cannot be written.

        A truncated last line is removed before the first append of this object.
        """
        line = _encode(record)
        if not self._checked:
            self.repair()
            self._checked = True
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                _write_all(descriptor, line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._checked = False  # the write may be incomplete: check again before the next one
            raise output_error(self.path, error) from error

    def rewrite(self, records: Iterable[dict[str, Any]]) -> None:
        """Replace the whole file atomically. Raises OutputError if it cannot be written."""
        atomic_write(self.path, b"".join(_encode(record) for record in records))

    def read(self) -> list[dict[str, Any]]:
        """Return all complete records in order, as :func:`read`."""
        return read(self.path)

    def repair(self) -> int:
        """Remove a truncated last line and return its length in bytes. Raises OutputError."""
        data = _content(self.path)
        torn = len(data) - _complete(data)
        if torn:
            try:
                os.truncate(self.path, len(data) - torn)
            except OSError as error:
                raise output_error(self.path, error) from error
        return torn


def read(path: Path | str) -> list[dict[str, Any]]:
    """Return the records of a manifest in order, none if it does not exist. A truncated last line is ignored.

    Raises InputError if the file cannot be read, or naming a line other than the last that is not a JSON object.
    """
    data = _content(Path(path))
    records = []
    for number, line in enumerate(data[: _complete(data)].splitlines(), 1):
        record = _parse(line)
        if record is None:
            raise InputError(
                f"{path}, line {number}: not a JSON object",
                "restore the manifest from a copy, or use another output folder",
            )
        records.append(record)
    return records


def _encode(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}", "check its permissions") from error


def _complete(data: bytes) -> int:
    """Return the length without a truncated last line, which has no line feed or (after a power cut) no JSON."""
    end = data.rfind(b"\n") + 1
    if end == len(data) and end:
        start = data.rfind(b"\n", 0, end - 1) + 1
        if _parse(data[start:end]) is None:
            return start
    return end


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
