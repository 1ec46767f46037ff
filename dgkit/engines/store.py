"""The engine store on disk: one folder per engine, named by the digest of its key, with a side-car.

An engine is opened only if every field of its side-car matches the requested key and its files match the side-car. A
folder is complete or absent: one process at a time builds it under a temporary name and renames it.
"""

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from dgkit import __version__
from dgkit.engines.sidecar import (
    Difference,
    EngineKey,
    EngineSideCar,
    describe_files,
    file_differences,
    key_differences,
    read_sidecar,
    write_sidecar,
)
from dgkit.errors import EngineError, UsageError
from dgkit.files import cache_folder, output_error
from dgkit.locks import locked
from dgkit.progress import Notify

Policy = Literal["never", "auto", "always"]
Build = Callable[[Path], Mapping[str, Any] | None]
REBUILD_REQUESTED = "rebuild requested"
_LOG = logging.getLogger(__name__)
_OPTIONS = {"onnx": "ort", "rtx": "trt"}  # backend of a key -> value of --engine, if it differs


@dataclass(frozen=True)
class EngineFolder:
    """A folder of the store."""

    folder: Path

    @property
    def name(self) -> str:
        """Name of the folder: that of the key, with the beginning of its digest."""
        return self.folder.name


@dataclass(frozen=True)
class Engine(EngineFolder):
    """An engine of the store, verified when it was opened."""

    sidecar: EngineSideCar

    @property
    def key(self) -> EngineKey:
        """Its key, read from the side-car."""
        return self.sidecar.key

    def file(self, name: str) -> Path:
        """Return the path of one of its files. Raises EngineError if the engine has no such file."""
        known = [entry.path for entry in self.sidecar.files]
        if name not in known:
            raise EngineError(f"engine {self.name} has no file {name!r}; it has {', '.join(known)}")
        return self.folder / name


class EngineStore:
    """The engines under ``root`` (default: ``engines/`` in the cache folder), which the first build creates."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = cache_folder() / "engines" if root is None else root

    def folder(self, key: EngineKey) -> Path:
        """Return the folder of the engine of ``key``, which may not exist."""
        return self.root / key.name

    def open(self, key: EngineKey, model: str = "") -> Engine:
        """Return the engine of ``key``.

        Raises EngineError if it is missing, or differs from ``key`` or from its own side-car. The error names the
        field, the expected and the actual value, and the command that builds the engine for ``model``.
        """
        found = self._find(key)
        if isinstance(found, str):
            raise EngineError(found, rebuild_command(key, model))
        return found

    def obtain(
        self,
        key: EngineKey,
        build: Build,
        *,
        rebuild: Policy = "auto",
        model: str = "",
        notify: Notify | None = None,
    ) -> Engine:
        """Return the engine of ``key``, which ``build(folder)`` builds if needed.

        ``rebuild``: ``never`` raises what :meth:`open` raises, ``auto`` builds an engine that is missing or differs,
        ``always`` builds. ``build`` writes its files into the given folder and may return notes for the side-car. If
        another process is building the same engine, ``auto`` waits for it and reports this to ``notify``. The reason
        for a build is logged. Raises OutputError if the store cannot be written. No partial engine is left, whatever
        ``build`` raises.
        """
        if check_policy(rebuild) == "never":
            return self.open(key, model)
        found = self._find(key) if rebuild == "auto" else REBUILD_REQUESTED
        if isinstance(found, Engine):
            return found
        notify = notify or (lambda text: None)
        with self._locked(key, notify):
            if rebuild == "auto":
                found = self._find(key)  # another process may have built it meanwhile
            if isinstance(found, Engine):
                return found
            _LOG.info("building %s: %s", key.name, found)
            return self._build(key, build, model)

    def remove(self, name: str, *, engine: bool = True) -> bool:
        """Remove an engine and the remains of killed builds; with ``engine`` False only the remains.

        Returns False if the engine is being built. Raises OSError.
        """
        with locked(self.root, _lock_name(name), wait=False) as entered:
            if entered:
                _delete(self.root / f".{name}.tmp")
                if engine:
                    self._displace(name)
                self._drop(name)
            return entered

    def _find(self, key: EngineKey) -> Engine | str:
        """Return the engine, or the reason why there is none."""
        folder = self.folder(key)
        if not folder.exists():
            return self._explain_missing(key)
        sidecar = read_sidecar(folder)
        if isinstance(sidecar, Difference):
            return f"engine {folder.name} has changed: {sidecar}"
        found = key_differences(key, sidecar.key) or file_differences(folder, sidecar.files)
        if found:
            return f"engine {folder.name} has changed: {_join(found)}"
        with contextlib.suppress(OSError):  # the store is read-only
            folder.touch()  # the last use, for prune
        return Engine(folder, sidecar)

    def _explain_missing(self, key: EngineKey) -> str:
        """Return the reason, with the differences to the closest engine of the same network and backend."""
        best: tuple[Difference, ...] = ()
        name = ""
        for folder in sorted(self.root.glob(f"{key.network}-{key.backend}-*")):
            sidecar = read_sidecar(folder)
            if isinstance(sidecar, Difference):
                continue
            found = key_differences(key, sidecar.key)
            if found and (not name or len(found) < len(best)):
                best, name = found, folder.name
        missing = f"there is no {key.backend} engine in {key.dtype} for the {key.network}"
        return f"{missing}; the closest one, {name}, differs in {_join(best)}" if name else missing

    @contextlib.contextmanager
    def _locked(self, key: EngineKey, notify: Notify) -> Iterator[None]:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                name = _lock_name(key.name)
                if not stack.enter_context(locked(self.root, name, wait=False)):
                    notify(f"another process is building the {key.backend} engine of the {key.network}; waiting for it")
                    stack.enter_context(locked(self.root, name))
                stack = stack.pop_all()
        except OSError as error:
            raise output_error(self.root, error) from error
        with stack:
            yield

    def _build(self, key: EngineKey, build: Build, model: str) -> Engine:
        target, temporary = self.folder(key), self.root / f".{key.name}.tmp"
        try:
            _delete(temporary)  # left by a killed build: this process holds the lock
            temporary.mkdir()
            started = time.perf_counter()
            notes = build(temporary) or {}
            sidecar = _describe(key, temporary, model, time.perf_counter() - started, notes)
            write_sidecar(temporary, sidecar)
            self._displace(key.name)
            temporary.rename(target)
            self._drop(key.name)
        except OSError as error:
            raise output_error(target, error) from error
        finally:
            with contextlib.suppress(OSError):
                _delete(temporary)
        return Engine(target, sidecar.sealed())

    def _displace(self, name: str) -> None:
        """Rename a folder before its removal, so that a partly removed one never has the name of an engine."""
        self._drop(name)
        with contextlib.suppress(FileNotFoundError):
            (self.root / name).rename(self.root / f".{name}.old")

    def _drop(self, name: str) -> None:
        _delete(self.root / f".{name}.old")


def check_policy(rebuild: str) -> Policy:
    """Return ``rebuild`` if it is a policy; raise UsageError otherwise."""
    found = next((policy for policy in get_args(Policy) if policy == rebuild), None)
    if found is None:
        raise UsageError(f"unknown --rebuild {rebuild!r}; known: {', '.join(get_args(Policy))}", "use --rebuild auto")
    return found


def rebuild_command(key: EngineKey, model: str = "") -> str:
    """Return the command that builds the engine of ``key``; ``model`` is already quoted for a shell."""
    if key.backend == "onnx" and key.dtype != "fp32":  # a graph for other backends
        return f"dgkit export {model or 'MODEL'} OUT --networks {key.network} --dtype {key.dtype} --rebuild always"
    words = ["dgkit build-engines", model or "MODEL", "--engine", _OPTIONS.get(key.backend, key.backend)]
    words += ["--networks", key.network, "--dtype", key.dtype]
    if key.device.get("kind") == "cuda":
        words += ["--device", "cuda"]
    batch = str(key.shapes.get("batch", ""))
    return " ".join([*words, *(["--batch", batch] if "," in batch else []), "--rebuild always"])


def _describe(key: EngineKey, folder: Path, model: str, seconds: float, notes: Mapping[str, Any]) -> EngineSideCar:
    files = describe_files(folder)
    if not files:
        raise EngineError(f"{key.name}: the build wrote no file")
    return EngineSideCar(
        key=key,
        digest=key.digest(),
        files=files,
        model=model,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        dgkit=__version__,
        notes=dict(notes),
    )


def _lock_name(name: str) -> str:
    return f".{name}.lock"


def _join(found: tuple[Difference, ...]) -> str:
    """Return the first difference in full and the fields of two more."""
    others = [item.field for item in found[1:3]] + (["..."] if len(found) > 3 else [])
    return f"{found[0]} (also in {', '.join(others)})" if others else str(found[0])


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
