"""Inventory of the engine store: list engines and their state, find one by name, remove unused ones."""

import re
import time
from dataclasses import dataclass
from pathlib import Path

from dgkit.engines.machine import local_key
from dgkit.engines.sidecar import Difference, EngineSideCar, file_differences, key_differences, read_sidecar
from dgkit.engines.store import EngineFolder, EngineStore
from dgkit.errors import UsageError
from dgkit.files import output_error

_ENGINE = r"[a-z0-9_]+-[a-z0-9_]+-[a-z0-9_]+-[0-9a-f]{16}"
_NAME = re.compile(rf"^{_ENGINE}$")
_LEFTOVER = re.compile(rf"^\.({_ENGINE})\.(tmp|old)$")
_DAY = 86400.0


@dataclass(frozen=True)
class StoredEngine(EngineFolder):
    """One folder of the store, valid or not.

    ``sidecar`` is None if it cannot be read. ``differences`` are those of the files to the side-car and of the key to
    this machine. ``size`` is in bytes; ``used`` is the time of the last use in seconds since 1970.
    """

    sidecar: EngineSideCar | None
    differences: tuple[Difference, ...]
    size: int
    used: float

    @property
    def state(self) -> str:
        """``ok``, or ``stale: `` followed by the first field that differs."""
        return f"stale: {self.differences[0].field}" if self.differences else "ok"


def entries(store: EngineStore) -> list[StoredEngine]:
    """Return all folders of the store, sorted by name."""
    return [entry for name in _names(store) if (entry := _examine(store.root / name)) is not None]


def find(store: EngineStore, identity: str) -> StoredEngine:
    """Return the engine whose name is ``identity``, or the only one whose name or digest starts with it.

    Raises UsageError if there is none or more than one.
    """
    names = _names(store)
    matches = [name for name in names if name == identity]
    matches = matches or [n for n in names if n.startswith(identity) or n.rpartition("-")[2].startswith(identity)]
    found = _examine(store.root / matches[0]) if len(matches) == 1 else None
    if found is None:
        what = f"matches {len(matches)} engines: {', '.join(matches)}" if matches else "matches no engine"
        raise UsageError(f"{identity!r} {what}", "dgkit engines list shows the names")
    return found


def prune(
    store: EngineStore, *, unused_days: float | None = None, stale: bool = False, dry_run: bool = False
) -> list[StoredEngine]:
    """Remove engines not used for ``unused_days`` days, ``stale`` ones, and the remains of killed builds.

    Returns the removed engines; with ``dry_run`` those that would be removed. Folders that are not named like an engine
    and engines that are being built are kept. Raises OutputError if something cannot be removed.
    """
    before = float("-inf") if unused_days is None else time.time() - unused_days * _DAY
    chosen = [e for e in entries(store) if _NAME.match(e.name) and (e.used < before or (stale and e.differences))]
    if dry_run:
        return chosen
    try:
        removed = [entry for entry in chosen if store.remove(entry.name)]
        hidden = [path.name for path in store.root.iterdir()] if store.root.is_dir() else []
        for name in {match[1] for match in map(_LEFTOVER.match, hidden) if match}:
            store.remove(name, engine=False)
    except OSError as error:
        raise output_error(store.root, error) from error
    return removed


def _names(store: EngineStore) -> list[str]:
    if not store.root.is_dir():
        return []
    return sorted(path.name for path in store.root.iterdir() if not path.name.startswith("."))


def _examine(folder: Path) -> StoredEngine | None:
    """Return the folder's entry; None if another process has just removed it."""
    try:
        status = folder.lstat()
        size = status.st_size if not folder.is_dir() else sum(path.lstat().st_size for path in folder.rglob("*"))
    except FileNotFoundError:
        return None
    sidecar, found = _compare(folder)
    return StoredEngine(folder, sidecar, found, size, status.st_mtime)


def _compare(folder: Path) -> tuple[EngineSideCar | None, tuple[Difference, ...]]:
    if not _NAME.match(folder.name) or not folder.is_dir():
        return None, (Difference("folder", "an engine of dgkit", "something else"),)
    sidecar = read_sidecar(folder)
    if isinstance(sidecar, Difference):
        return None, (sidecar,)
    found = file_differences(folder, sidecar.files) + key_differences(local_key(sidecar.key), sidecar.key)
    if sidecar.key.name != folder.name:
        found = (Difference("folder", sidecar.key.name, folder.name), *found)
    return sidecar, found
