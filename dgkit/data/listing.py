"""Listing files of users: which ending they have, and a walk that visits each folder once.

Every list of label maps or photographs comes from here, so that all commands see the same files.
"""

import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from dgkit.errors import InputError
from dgkit.files import is_hidden

PHOTOGRAPHS = (".png", ".jpg", ".jpeg")  # endings, in any case
_Identity = tuple[int, int]  # device and inode


def split_ending(name: str, endings: Sequence[str]) -> tuple[str, int] | None:
    """Return the name without the first of ``endings`` that it has, in any case, and the index of that ending."""
    for rank, ending in enumerate(endings):
        if name[-len(ending) :].lower() == ending.lower():
            return name[: -len(ending)], rank
    return None


def same_name(name: str) -> str:
    """Return the form in which names are compared: macOS decomposes accents (NFD), other systems do not (NFC)."""
    return unicodedata.normalize("NFC", name)


def printable(name: str) -> str:
    """Return ``name`` with U+FFFD for bytes that are not UTF-8 and for control characters such as line breaks."""
    return "".join("\ufffd" if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") else letter for letter in name)


def walk(folder: Path, seen: set[_Identity] | None = None) -> Iterator[tuple[str, list[str]]]:
    """Yield (subfolder, names of its files) of ``folder`` and all folders below it; "." is ``folder`` itself.

    Hidden and system files and folders, pipes, sockets and devices are skipped; a link to nothing is listed, so that
    whoever opens it reports it. Links to folders are followed, but each folder is visited once, by its real path if it
    has one here; ``seen`` carries the folders from one walk to the next. A folder that does not exist has no files.
    Raises InputError for a folder that cannot be listed.
    """
    seen = set() if seen is None else seen
    real, links = [(folder, ".")], list[tuple[Path, str]]()
    while real or links:
        path, sub = real.pop() if real else links.pop(0)
        names: list[str] = []
        count, entries = len(seen), _entries(path, seen)
        if len(seen) == count:  # visited before, or gone
            continue
        for entry in entries:
            below = entry.name if sub == "." else f"{sub}/{entry.name}"
            kind = _kind(entry)
            if kind == "folder":
                (links if entry.is_symlink() else real).append((path / entry.name, below))
            elif kind:
                names.append(entry.name)
        yield sub, names


def find_matches(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Yield the files below ``folder`` whose path fits ``parts``, patterns of one name each; ``**`` is any folders.

    Files are skipped and links followed as by :func:`walk`, so that a circle of links ends.
    """
    head, *rest = parts
    if head == "**":
        while rest[:1] == ["**"]:
            del rest[0]
        for sub, names in walk(folder):
            yield from find_matches(folder / sub, rest) if rest else (folder / sub / name for name in names)
        return
    for entry in _entries(folder, set()):
        if _fits(entry.name, head):
            kind = _kind(entry)
            if rest and kind == "folder":
                yield from find_matches(folder / entry.name, rest)
            elif not rest and kind == "file":
                yield folder / entry.name


def _fits(name: str, pattern: str) -> bool:
    """Return whether a name fits a pattern, endings in any case, or is the pattern itself."""
    plain, wanted = ("".join((stem, dot, ending.lower())) for stem, dot, ending in map(_split, (name, pattern)))
    return name == pattern or fnmatchcase(plain, wanted)


def _split(name: str) -> tuple[str, str, str]:
    return same_name(name).rpartition(".")


def find_stems(folder: Path, endings: Sequence[str]) -> dict[str, Path]:
    """Return the files of ``folder``, not of its subfolders, by their :func:`same_name` without the ending.

    Of several files with one stem that of the first ending counts, then the one whose ending has the given case.
    """
    found: dict[str, tuple[tuple[int, bool, str], Path]] = {}
    for entry in _entries(folder, set()):
        split = split_ending(entry.name, endings)
        if split is None or _kind(entry) != "file":
            continue
        stem, rank = split
        order = (rank, not entry.name.endswith(endings[rank]), entry.name)
        key = same_name(stem)
        if key not in found or order < found[key][0]:
            found[key] = order, folder / entry.name
    return {stem: path for stem, (_, path) in found.items()}


def find_named(folder: Path, name: str) -> Path:
    """Return the file that a manifest in ``folder`` names, with slashes or back slashes, in NFC or NFD.

    If there is no such file, it is ``folder / name``.
    """
    spellings: Iterable[str] = dict.fromkeys(
        form
        for text in (name, name.replace("\\", "/"))
        for form in (text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text))
    )
    try:
        return next((path for text in spellings if (path := folder / PurePosixPath(text)).exists()), folder / name)
    except OSError:  # a name that is too long
        return folder / name


def _entries(folder: Path, seen: set[_Identity]) -> list[os.DirEntry[str]]:
    """Return the entries that are not hidden, sorted by name; none if the folder was seen before or does not exist."""
    try:
        status = folder.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in seen or not stat.S_ISDIR(status.st_mode):
            return []
        seen.add(identity)
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not is_hidden(entry.name)), key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be listed ({error.strerror or error})", f"make it readable: chmod u+rx '{folder}'"
        ) from error


def _kind(entry: os.DirEntry[str]) -> str:
    """Return "folder" or "file", with links followed, or "" for a pipe, a socket or a device."""
    try:
        mode = entry.stat().st_mode
    except OSError:  # a link to nothing, or in a circle
        return "file"
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else ""
