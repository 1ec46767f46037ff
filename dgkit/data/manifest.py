"""The manifest of an output folder: one JSON object per line, appended when its files are on disk.

Each append is one write followed by fsync, so a kill can truncate the last line only. A truncated line, which is not
JSON, is ignored by readers and removed before the next append. A last line that lacks only its line feed counts.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dgkit.errors import InputError
from dgkit.files import atomic_write, json_line, open_regular, output_error, parse_json

MAX_BYTES = 2 << 30  # of a manifest; a million images take 1 GB


class Manifest:
    """A JSON-lines file at ``path``, which need not exist yet. Only one process may append at a time."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._checked = False

    def append(self, record: dict[str, Any]) -> None:
        """Append ``record`` as one line and wait until it is on disk. Raises OutputError if it cannot be written.

        A truncated last line is removed before the first append of this object.
        """
        line = json_line(record)
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
        atomic_write(self.path, b"".join(json_line(record) for record in records))

    def read(self) -> list[dict[str, Any]]:
        """Return all complete records in order, as :func:`read`."""
        return read(self.path)

    def repair(self) -> int:
        """Remove a truncated last line and return its length in bytes; end a whole last line. Raises OutputError."""
        data = _content(self.path)
        complete = _complete(data)
        try:
            if complete < len(data):
                os.truncate(self.path, complete)
            elif data and not data.endswith(b"\n"):
                with self.path.open("ab") as stream:
                    stream.write(b"\n")
        except OSError as error:
            raise output_error(self.path, error) from error
        return len(data) - complete


def read(path: Path | str) -> list[dict[str, Any]]:
    """Return the records of a manifest in order, none if it does not exist.

    Blank lines and a truncated last line are ignored.
    Raises InputError if the file cannot be read, or naming a line that is not a JSON object, or that holds a number
    beyond the range of floats.
    """
    data = _content(Path(path))
    lines = enumerate(_lines(data[: _complete(data)]), 1)
    return [_record(path, number, line) for number, line in lines if line.strip()]


def read_lines(path: Path | str) -> list[bytes]:
    """Return the lines of a manifest as they are, none if it does not exist. Raises InputError if it cannot be read."""
    return _lines(_content(Path(path)))


def _record(path: Path | str, number: int, line: bytes) -> dict[str, Any]:
    try:
        record, reason = parse_json(line), ""
    except ValueError as error:
        record, reason = None, f" ({error})"
    if not isinstance(record, dict):
        raise InputError(
            f"{path}, line {number}: not a JSON object{reason}",
            "restore the manifest from a copy, or use another output folder",
        )
    return record


def _lines(data: bytes) -> list[bytes]:
    """Split at line feeds alone: other separators may occur inside a text."""
    return data.removesuffix(b"\n").split(b"\n") if data else []


def _content(path: Path) -> bytes:
    try:
        with open_regular(path, MAX_BYTES) as stream:
            return stream.read()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}", "check its permissions") from error


def _complete(data: bytes) -> int:
    """Return the length without a truncated last line: one that is not JSON, as a kill or a power cut leaves it."""
    start = data.rfind(b"\n", 0, max(0, len(data) - 1)) + 1
    return start if _is_torn(data[start:]) else len(data)


def _is_torn(line: bytes) -> bool:
    try:
        return not isinstance(parse_json(line), dict)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return True
    except ValueError:  # whole, but not usable
        return False


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
