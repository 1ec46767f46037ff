"""The side-car of an engine: all that made it what it is, and size and digest of each of its files.

An engine is right or wrong by comparison only: its :class:`EngineKey` with the one wanted, its files with what the
side-car says of them. Each comparison gives :class:`Difference` objects that name the field. Torch is not needed here.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, ValidationError, field_validator

from dgkit.config import Config
from dgkit.errors import OutputError
from dgkit.files import atomic_write, digest_file

FORMAT = 1  # raise it whenever a change in dgkit makes another engine of an otherwise equal key
SIDECAR = "engine.json"
STAMPS = "verified.json"
ALWAYS_HASHED = 16 << 20  # bytes; a larger file is hashed again only where its stamp changed
_ABSENT = "absent"

Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
Scalar = bool | int | float | str


class EngineKey(Config):
    """Everything that makes one engine differ from another. Equal keys mean interchangeable engines."""

    network: Name
    """Name in :data:`dgkit.engines.spec.NETWORKS`."""
    weights: str
    """Digest (hex) of the weights and the configuration of the network."""
    dtype: Name
    """Precision: fp32, bf16, fp16 or int8."""
    shapes: dict[str, int | str]
    """Size of each symbol of the spec: a number, ``any``, or a range as ``min,opt,max``."""
    graph: dict[str, Scalar] = Field(default_factory=dict)
    """Settings of the export: opset, form."""
    backend: Name
    """What runs the engine; ``onnx`` for a graph that any of them takes."""
    backend_version: str
    """Version of its package."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions of the other packages that the engine depends on."""
    device: dict[str, str]
    """What :func:`dgkit.engines.machine.device_facts` says of the device."""
    flags: dict[str, Scalar] = Field(default_factory=dict)
    """Options of the build."""
    format: int = FORMAT
    """Version of dgkit's own way of exporting and building."""

    def digest(self) -> str:
        """SHA-256 (hex) over all fields."""
        return _digest(self.model_dump(mode="json"))

    @property
    def name(self) -> str:
        """Name of the engine's folder: readable, and one to one with the digest."""
        return f"{self.network}-{self.backend}-{self.dtype}-{self.digest()[:16]}"


class FileEntry(Config):
    """One file of an engine: path relative to its folder, size in bytes, SHA-256 in hex."""

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

    version: Literal[1] = 1
    """Version of this layout."""
    key: EngineKey
    digest: str
    """That of the key, in full."""
    files: tuple[FileEntry, ...] = Field(min_length=1)
    model: str = ""
    """The model as given to a command, for the one that rebuilds the engine."""
    created: str
    """UTC, ISO 8601."""
    seconds: float
    """Duration of the build."""
    dgkit: str
    """Version of dgkit that built it."""
    notes: dict[str, JsonValue] = Field(default_factory=dict)
    """What the builder measured, e.g. its error against PyTorch."""
    checksum: str = ""
    """SHA-256 over all of the above, so that an edited side-car is noticed."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files)

    def sealed(self) -> "EngineSideCar":
        """The same with the checksum that belongs to it."""
        content = json.loads(self.model_dump_json(exclude={"checksum"}))  # as it will be read: NaN becomes null
        return self.model_copy(update={"checksum": _digest(content)})


@dataclass(frozen=True)
class Difference:
    """One field in which what is there is not what is wanted."""

    field: str
    wanted: str
    have: str

    def __str__(self) -> str:
        return f"{self.field}: wanted {_shorten(self.wanted)}, have {_shorten(self.have)}"


def key_differences(wanted: EngineKey, have: EngineKey) -> tuple[Difference, ...]:
    """Fields in which the keys differ, nested ones with a dot (``shapes.batch``), in the order of the class."""
    want, has = dict(_flatten(wanted.model_dump())), dict(_flatten(have.model_dump()))
    names = [*want, *(name for name in has if name not in want)]
    return tuple(
        Difference(name, str(want.get(name, _ABSENT)), str(has.get(name, _ABSENT)))
        for name in names
        if want.get(name, _ABSENT) != has.get(name, _ABSENT)
    )


def write_sidecar(folder: Path, sidecar: EngineSideCar) -> None:
    """Write ``engine.json`` and the stamps of the files, just hashed. Raises OutputError."""
    text = sidecar.sealed().model_dump_json(indent=2) + "\n"
    atomic_write(folder / SIDECAR, text.encode())
    _write_stamps(folder, {entry.path: [*_stamp(folder / entry.path), entry.sha256] for entry in sidecar.files})


def read_sidecar(folder: Path) -> EngineSideCar | Difference:
    """``engine.json`` of a folder, or in what it is not one that dgkit wrote."""
    path = folder / SIDECAR
    try:
        sidecar = EngineSideCar.model_validate_json(path.read_bytes())
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
    """Paths of all files in a folder, relative to it, those that the store itself writes left out."""
    found = (path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    names = (path.relative_to(folder).as_posix() for path in found)
    return sorted(name for name in names if name not in (SIDECAR, STAMPS) and not name.startswith(f".{STAMPS}."))


def describe_files(folder: Path) -> tuple[FileEntry, ...]:
    """Size and digest of each file of a folder. Raises OSError."""
    return tuple(
        FileEntry(path=name, size=(folder / name).stat().st_size, sha256=digest_file(folder / name))
        for name in list_files(folder)
    )


def file_differences(folder: Path, entries: Iterable[FileEntry]) -> tuple[Difference, ...]:
    """In what the files of a folder are not those of its side-car: missing, foreign, another size, other bytes.

    Sizes are always compared. Digests are computed for files up to :data:`ALWAYS_HASHED` bytes, and for larger ones
    where inode or times have changed since they were last computed.
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
        with contextlib.suppress(OutputError):  # a folder that may only be read: hashed again next time
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
    """What changes when a file does; unlike the time of writing, that of the last change of status cannot be set."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _read_stamps(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / STAMPS).read_bytes())
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
    """Digests by their first twelve letters."""
    return f"{text[:12]}…" if len(text) == 64 and not text.strip("0123456789abcdef") else text
