"""The side-car of an engine: its key, and the size and digest of each of its files.

An engine is valid if its :class:`EngineKey` equals the requested one and its files match the side-car. Each comparison
returns :class:`Difference` objects that name the field. This module does not import torch.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue, ValidationError, field_validator

from dgkit.config import Config
from dgkit.errors import OutputError
from dgkit.files import atomic_write, digest_file, parse_json, read_file

FORMAT = 1  # increase it when a change in dgkit produces a different engine for the same key
SIDECAR = "engine.json"
STAMPS = "verified.json"
ALWAYS_HASHED = 16 << 20  # bytes; a larger file is hashed again only if its stamp has changed
_ABSENT = "absent"

Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
Scalar = bool | int | float | str


class EngineKey(Config):
    """Everything that distinguishes one engine from another. Engines with equal keys are interchangeable."""

    network: Name
    """Name in :data:`dgkit.engines.spec.NETWORKS`."""
    weights: str
    """Digest (hex) of the weights and the configuration of the network."""
    dtype: Name
    """Precision: fp32, bf16, fp16, int8 or fp8."""
    shapes: dict[str, int | str]
    """Size of each symbol of the spec: a number, ``any``, or a range as ``min,opt,max``."""
    graph: dict[str, Scalar] = Field(default_factory=dict)
    """Settings of the export: opset, form."""
    backend: Name
    """Library that runs the engine; ``onnx`` for an exported graph."""
    backend_version: str
    """Version of its package."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions of the other packages that the engine depends on."""
    device: dict[str, str]
    """Result of :func:`dgkit.engines.machine.device_facts` for the device."""
    flags: dict[str, Scalar] = Field(default_factory=dict)
    """Options of the build."""
    format: int = FORMAT
    """Version of dgkit's export and build code, see :data:`FORMAT`."""

    def digest(self) -> str:
        """Return the SHA-256 (hex) over all fields."""
        return _digest(self.model_dump(mode="json"))

    @property
    def name(self) -> str:
        """Name of the engine's folder: readable, and unique by the digest."""
        return f"{self.network}-{self.backend}-{self.dtype}-{self.digest()[:16]}"


class FileEntry(Config):
    """One file of an engine: path relative to the folder, size in bytes, SHA-256 in hex."""

    path: str
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        parts = PurePosixPath(path)
        if not path or parts.is_absolute() or ".." in parts.parts or path in (SIDECAR, STAMPS):
            raise ValueError("a file outside the engine's folder")
        return path


class EngineSideCar(Config):
    """``engine.json``. ``model``, ``created``, ``seconds`` and ``notes`` are information and never compared."""

    model_config = ConfigDict(allow_inf_nan=True)  # notes state what was measured

    version: Literal[1] = 1
    """Version of this layout."""
    key: EngineKey
    digest: str
    """Full digest of the key."""
    files: tuple[FileEntry, ...] = Field(min_length=1)
    model: str = ""
    """The model as command-line arguments, for the rebuild command."""
    created: str
    """Time of the build, UTC, ISO 8601."""
    seconds: float
    """Duration of the build in seconds."""
    dgkit: str
    """Version of dgkit that built it."""
    notes: dict[str, JsonValue] = Field(default_factory=dict)
    """Measurements of the build, such as the error against PyTorch."""
    checksum: str = ""
    """SHA-256 over all fields above, to detect an edited side-car."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files)

    def sealed(self) -> "EngineSideCar":
        """Return a copy with the correct checksum."""
        content = json.loads(self.model_dump_json(exclude={"checksum"}))  # as it will be read back: NaN becomes null
        return self.model_copy(update={"checksum": _digest(content)})


@dataclass(frozen=True)
class Difference:
    """A field whose actual value ``have`` is not the expected value ``wanted``."""

    field: str
    wanted: str
    have: str

    def __str__(self) -> str:
        return f"{self.field}: expected {_shorten(self.wanted)}, found {_shorten(self.have)}"


def key_differences(wanted: EngineKey, have: EngineKey) -> tuple[Difference, ...]:
    """Return the fields in which the keys differ, nested ones as ``shapes.batch``, in the order of the class."""
    want, has = dict(_flatten(wanted.model_dump())), dict(_flatten(have.model_dump()))
    names = [*want, *(name for name in has if name not in want)]
    return tuple(
        Difference(name, str(want.get(name, _ABSENT)), str(has.get(name, _ABSENT)))
        for name in names
        if want.get(name, _ABSENT) != has.get(name, _ABSENT)
    )


def write_sidecar(folder: Path, sidecar: EngineSideCar) -> None:
    """Write ``engine.json`` and the stamps of the files, which were just hashed. Raises OutputError."""
    text = sidecar.sealed().model_dump_json(indent=2) + "\n"
    atomic_write(folder / SIDECAR, text.encode())
    _write_stamps(folder, {entry.path: [*_stamp(folder / entry.path), entry.sha256] for entry in sidecar.files})


def read_sidecar(folder: Path) -> EngineSideCar | Difference:
    """Return the side-car of a folder, or the reason why it is not one that dgkit wrote."""
    path = folder / SIDECAR
    try:
        sidecar = EngineSideCar.model_validate_json(read_file(path))
    except FileNotFoundError:
        return Difference("side-car", SIDECAR, "missing")
    except OSError as error:
        return Difference("side-car", SIDECAR, f"unreadable ({error.strerror})")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        return Difference("side-car", SIDECAR, f"not valid: {f'{place}: ' if place else ''}{first['msg']}")
    sealed = sidecar.sealed().checksum
    if sidecar.checksum != sealed:
        return Difference("side-car checksum", sealed, f"{sidecar.checksum or 'none'} (the file was edited)")
    if sidecar.digest != sidecar.key.digest():
        return Difference("side-car digest", sidecar.key.digest(), sidecar.digest)
    return sidecar


def list_files(folder: Path) -> list[str]:
    """Return the paths of all files in a folder, relative to it, without those that the store itself writes."""
    found = (path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    names = (path.relative_to(folder).as_posix() for path in found)
    return sorted(name for name in names if name not in (SIDECAR, STAMPS) and not name.startswith(f".{STAMPS}."))


def describe_files(folder: Path) -> tuple[FileEntry, ...]:
    """Return size and digest of each file of a folder. Raises OSError."""
    return tuple(
        FileEntry(path=name, size=(folder / name).stat().st_size, sha256=digest_file(folder / name))
        for name in list_files(folder)
    )


def file_differences(folder: Path, entries: Iterable[FileEntry]) -> tuple[Difference, ...]:
    """Return how the files of a folder differ from its side-car: missing, unknown, of another size, changed.

    Sizes are always compared. Digests are computed for files of up to :data:`ALWAYS_HASHED` bytes, and for larger files
    if their inode or times have changed since the last computation.
    """
    wanted = {entry.path: entry for entry in entries}
    present = set(list_files(folder))
    found = [Difference(f"file {name}", "present", _ABSENT) for name in wanted if name not in present]
    found += [Difference(f"file {name}", _ABSENT, "present") for name in sorted(present - set(wanted))]
    stamps, fresh = _read_stamps(folder), {}
    for name in sorted(present & set(wanted)):
        try:
            difference, stamp = _check_file(folder / name, wanted[name], stamps.get(name))
        except OSError as error:
            found.append(Difference(f"file {name}", "readable", str(error.strerror)))
            continue
        if difference is not None:
            found.append(difference)
        else:
            fresh[name] = stamp
    if fresh != stamps and not found:
        with contextlib.suppress(OutputError):  # a read-only folder: its files are hashed again next time
            _write_stamps(folder, fresh)
    return tuple(found)


def _check_file(path: Path, entry: FileEntry, known: Any) -> tuple[Difference | None, list[Any]]:
    stamp = _stamp(path)
    if stamp[0] != entry.size:
        return Difference(f"size of {entry.path}", str(entry.size), str(stamp[0])), stamp
    if entry.size > ALWAYS_HASHED and known == [*stamp, entry.sha256]:
        return None, known
    digest = digest_file(path)
    if digest != entry.sha256:
        return Difference(f"sha256 of {entry.path}", entry.sha256, digest), stamp
    return None, [*stamp, digest]


def _stamp(path: Path) -> list[Any]:
    """Return size, times and inode of a file. Unlike the time of modification, that of the status cannot be set."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _read_stamps(folder: Path) -> dict[str, Any]:
    try:
        found = parse_json(read_file(folder / STAMPS))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_stamps(folder: Path, stamps: Mapping[str, Any]) -> None:
    atomic_write(folder / STAMPS, json.dumps(stamps).encode())


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shorten(text: str) -> str:
    """Return the first twelve digits of a digest, and any other text unchanged."""
    return f"{text[:12]}…" if len(text) == 64 and not text.strip("0123456789abcdef") else text
