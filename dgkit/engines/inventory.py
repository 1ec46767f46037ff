"""What the store holds: every engine compared with itself and with this machine, found by name, removed when unused."""

import re
import time
from dataclasses import dataclass
from pathlib import Path

from dgkit.engines.machine import here
from dgkit.engines.sidecar import Difference, EngineSideCar, file_differences, key_differences, read_sidecar
from dgkit.engines.store import EngineStore
from dgkit.errors import UsageError
from dgkit.files import output_error

_ENGINE = r"[a-z0-9_]+-[a-z0-9_]+-[a-z0-9_]+-[0-9a-f]{16}"
_NAME = re.compile(rf"^{_ENGINE}$")
_LEFTOVER = re.compile(rf"^\.({_ENGINE})\.(tmp|old)$")
_DAY = 86400.0


@dataclass(frozen=True)
class StoredEngine:
    """One folder of the store as found.

    ``sidecar`` is None where it cannot be read; ``differences`` are those from the side-car and from this machine;
    ``size`` in bytes; ``used``, when the engine was last opened, in seconds since 1970.
    """

    folder: Path
    sidecar: EngineSideCar | None
    differences: tuple[Difference, ...]
    size: int
    used: float

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def state(self) -> str:
        """``ok``, or ``stale: `` and the first field that differs."""
        return f"stale: {self.differences[0].field}" if self.differences else "ok"


def entries(store: EngineStore) -> list[StoredEngine]:
    """All folders of the store, by name."""
    return [entry for name in _names(store) if (entry := _examine(store.root / name)) is not None]


def find(store: EngineStore, identity: str) -> StoredEngine:
    """The engine whose name is ``identity``, or the only one whose name or digest starts so; UsageError otherwise."""
    names = _names(store)
    matches = [name for name in names if name == identity]
    matches = matches or [n for n in names if n.startswith(identity) or n.rpartition("-")[2].startswith(identity)]
    found = _examine(store.root / matches[0]) if len(matches) == 1 else None
    if found is None:
        what = f"stands for {len(matches)} engines: {', '.join(matches)}" if matches else "is no engine of this cache"
        raise UsageError(f"{identity!r} {what}", "dgkit engines list shows the names")
    return found


def prune(
    store: EngineStore, *, unused_days: float | None = None, stale: bool = False, dry_run: bool = False
) -> list[StoredEngine]:
    """Remove engines not opened for ``unused_days`` days, those that are ``stale``, and what killed builds left.

    Returns the engines removed; with ``dry_run`` those that would be. A folder whose name is not that of an engine, and
    an engine that is being built, are left alone. OutputError where something cannot be removed.
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
    """None where another process has just removed it."""
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
    found = file_differences(folder, sidecar.files) + key_differences(here(sidecar.key), sidecar.key)
    if sidecar.key.name != folder.name:
        found = (Difference("folder", sidecar.key.name, folder.name), *found)
    return sidecar, found
