"""The digest of an ONNX file, including the files that hold its weights."""

import hashlib
import mmap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from dgkit.errors import EngineError, InputError
from dgkit.files import digest_file
from dgkit.optional import first_line, require

MAX_BYTES = 2 << 30  # of a protobuf message
_KEY = b"location"  # every reference to another file holds this key


def digest_onnx(path: Path) -> str:
    """Return the SHA-256 of an ONNX file and of the files with its external data.

    A file without external data has the digest of its bytes. Raises ``OSError``, EngineError for a file that is too
    large, and as :func:`external_files` does.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise EngineError(
            f"{path} has {size / 2**30:,.1f} GiB; an ONNX file may have 2 GiB", "export it again with external data"
        )
    own, others = digest_file(path), external_files(path)
    if not others:
        return own
    lines = [own, *(f"{name} {_digest_external(path, name)}" for name in others)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def external_files(path: Path) -> list[str]:
    """Return the files, sorted and relative to the folder of ``path``, in which tensors of an ONNX file are stored.

    Raises EngineError for a file that is not ONNX, InputError for external data outside of the folder,
    MissingDependency without onnx if the file may have external data; ``OSError``.
    """
    if not _mentions_files(path):
        return []
    onnx = require("onnx", "cpu")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except OSError:
        raise
    except Exception as error:  # protobuf raises unrelated classes of its own
        raise EngineError(f"{path} cannot be opened: {first_line(error)}", "export it again") from error
    found = {
        entry.value
        for tensor in _tensors(model, onnx.TensorProto)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for name in found:
        if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive:
            raise InputError(
                f"{path} stores weights in {name!r}, outside of its own folder",
                "save it again with its external data next to it",
            )
    return sorted(found)


def _digest_external(path: Path, name: str) -> str:
    try:
        return digest_file(path.parent / name)
    except OSError as error:
        raise InputError(
            f"{path} stores weights in {path.parent / name}, which cannot be read: {error.strerror}",
            "keep the ONNX file and the files of its weights together",
        ) from error


def _mentions_files(path: Path) -> bool:
    """Return False if the file certainly has no external data, without parsing its weights."""
    if not path.stat().st_size:
        return False
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(_KEY) >= 0


def _tensors(message: Any, kind: type) -> Iterator[Any]:
    """Yield every tensor below a message: initializers, attributes, subgraphs, functions and sparse tensors."""
    if isinstance(message, kind):
        yield message
        return
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in [value] if hasattr(value, "ListFields") else value:
                yield from _tensors(inner, kind)
