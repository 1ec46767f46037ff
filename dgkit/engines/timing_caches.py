"""TensorRT's timing caches in the engine store, copied out for other machines with the same GPU, and in again.

A cache holds the times of kernels, so that later builds need not measure them. Its name states library, version and
compute capability; a build reads only the cache of its own.
"""

import re
from pathlib import Path

from dgkit.engines.store import EngineStore
from dgkit.errors import InputError, UsageError
from dgkit.files import atomic_write, output_error

_NAME = re.compile(r"timings-trt-[\w.]+-\d+\.\d+\.cache")
LEAST = 16  # bytes; a shorter file is a truncated one


def cache_name(backend: str, version: str, capability: tuple[int, int]) -> str:
    """Return the name of a cache outside of the store; inside, a dot precedes it."""
    return f"timings-{backend}-{version}-{capability[0]}.{capability[1]}.cache"


def export_caches(store: EngineStore, out: Path) -> list[Path]:
    """Copy all timing caches to the folder ``out`` and return the copies. Raises InputError if there is none."""
    found = sorted(path for path in store.root.glob(".timings-*.cache") if _NAME.fullmatch(path.name[1:]))
    if not found:
        raise InputError(
            f"{store.root} has no timing cache; TensorRT-RTX needs none",
            "build an engine with TensorRT first: dgkit build-engines --engine trt --device cuda",
        )
    copies = []
    for path in found:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise output_error(path, error) from error
        copies.append(out / path.name[1:])
        atomic_write(copies[-1], content)
    return copies


def import_caches(store: EngineStore, source: Path) -> list[Path]:
    """Copy a timing cache, or all those in a folder, into the store; return the copies, which replace earlier ones.

    Raises UsageError for a name that :func:`export_caches` does not write, InputError for a file that cannot be read or
    is truncated.
    """
    files = sorted(source.glob("timings-*.cache")) if source.is_dir() else [source]
    if not files:
        raise InputError(f"{source} has no timing cache", "pass a folder that dgkit engines export-timings wrote")
    contents = {path.name: _read(path) for path in files}  # all are read before the first is written
    for name, content in contents.items():
        atomic_write(store.root / f".{name}", content)
    return [store.root / f".{name}" for name in contents]


def _read(path: Path) -> bytes:
    if not _NAME.fullmatch(path.name):
        raise UsageError(
            f"{path.name} is not a timing cache of dgkit: expected timings-trt-VERSION-CAPABILITY.cache",
            "keep the name that dgkit engines export-timings gave it",
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", "check the path") from error
    if len(content) < LEAST:
        raise InputError(f"{path} is truncated: it has {len(content)} bytes", "export it again")
    return content
