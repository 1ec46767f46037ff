"""Writers for the files of a packed data set: tar shards for WebDataset, parquet files, or an image folder.

Each writer makes complete files, with the same bytes for the same scenes. It calls ``on_written`` with the number of
scenes that it has just written, and returns the SHA-256 of each file by its path relative to the target folder.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dgkit.data.generated import Line
from dgkit.errors import InputError
from dgkit.files import atomic_path, atomic_write, digest_file, hard_link
from dgkit.optional import require

EXTRA = "outputs"
_ROW_GROUP = 32  # scenes; readers load a group at a time, the writer holds one in memory
_PICTURES = ("image", "label")
_COLUMNS = ("id", *_PICTURES, "style", "class", "prompt", "source", "seed", "record")

FileDigests = dict[str, str]  # path relative to the target folder -> SHA-256
OnWritten = Callable[[int], None]  # called with the number of scenes that were just written


def read_scene(folder: Path, record: Line) -> tuple[bytes, bytes]:
    """Return the (image, label) files of a scene. Raises InputError if one is missing or differs from the manifest."""
    contents = []
    for kind in ("image", "label"):
        path = folder / record[kind]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _damaged(folder, path, error.strerror or str(error)) from error
        digest = record.get(f"{kind}_sha256")
        if digest is not None and hashlib.sha256(data).hexdigest() != digest:
            raise _damaged(folder, path, "the file differs from the one that the manifest describes")
        contents.append(data)
    return contents[0], contents[1]


def write_tar(source: Path, records: Sequence[Line], target: Path, name: str, on_written: OnWritten) -> FileDigests:
    """Write a shard for WebDataset: ``KEY.image.png``, ``KEY.label.png`` and ``KEY.json`` of each scene in sequence."""
    with atomic_path(target / name) as temporary:
        with tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as archive:
            for record in records:
                image, label = read_scene(source, record)
                for suffix, data in (("image.png", image), ("label.png", label), ("json", _line(record))):
                    member = tarfile.TarInfo(
                        f"{key(record)}.{suffix}"
                    )  # time, user and group stay 0, so that the bytes depend on the scenes alone
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
                on_written(1)
        digest = digest_file(temporary)
    return {name: digest}


def write_parquet(source: Path, records: Sequence[Line], target: Path, name: str, on_written: OnWritten) -> FileDigests:
    """Write a parquet file for `datasets` and the Hugging Face hub, with ``image`` and ``label`` as image columns."""
    pyarrow, parquet = require("pyarrow", EXTRA), require("pyarrow.parquet", EXTRA)
    schema = _schema(pyarrow)
    # PNG data is compressed already.
    parts = (f"{name}.{part}" for name in _PICTURES for part in ("bytes", "path"))
    leaves = [*(name for name in _COLUMNS if name not in _PICTURES), *parts]
    compression = {leaf: "NONE" if leaf.endswith(".bytes") else "ZSTD" for leaf in leaves}
    with atomic_path(target / name) as temporary:
        # An open file, since pyarrow takes a path such as exp:night for a URL.
        with (
            temporary.open("wb") as stream,
            parquet.ParquetWriter(stream, schema, compression=compression) as writer,
        ):
            for start in range(0, len(records), _ROW_GROUP):
                group = records[start : start + _ROW_GROUP]
                rows = [_row(record, *read_scene(source, record)) for record in group]
                writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
                on_written(len(group))
        digest = digest_file(temporary)
    return {name: digest}


def write_tree(source: Path, records: Sequence[Line], target: Path, name: str, on_written: OnWritten) -> FileDigests:
    """Fill ``images/`` and ``labels/`` below ``name``, with hard links if the file system has them, else copies.

    A symbolic link in ``source`` becomes a copy of its file.
    """
    written: FileDigests = {}
    for record in records:
        for kind, data in zip(("image", "label"), read_scene(source, record), strict=True):
            below = f"{name}/{tree_path(record, kind)}"
            if not hard_link(source / record[kind], target / below):
                atomic_write(target / below, data)
            written[below] = hashlib.sha256(data).hexdigest()
        on_written(1)
    return written


def tree_path(record: Line, kind: str) -> str:
    """Return where an image folder holds the ``image`` or ``label`` of a scene; filtered labels lie in labels/ too."""
    return f"{kind}s/{Path(record[kind]).name}"


def key(record: Line) -> str:
    """Return the key of a scene in a shard: its id without dots, at which WebDataset would end the key.

    The number at the start of the id keeps the key unique.
    """
    return str(record["id"]).replace(".", "-")


def tar_size(folder: Path, record: Line) -> int:
    """Return the number of bytes that a scene takes in a shard."""
    sizes = [*(file_size(folder, record, kind) for kind in ("image", "label")), len(_line(record))]
    return sum(512 + -(-size // 512) * 512 for size in sizes)


def file_size(folder: Path, record: Line, kind: str) -> int:
    """Return the size in bytes of the ``image`` or ``label`` of a scene. Raises InputError if it is missing."""
    path = folder / record[kind]
    try:
        return path.stat().st_size
    except OSError as error:
        raise _damaged(folder, path, error.strerror or str(error)) from error


def _damaged(folder: Path, path: Path, reason: str) -> InputError:
    return InputError(f"{path}: {reason}", f"dgkit generate {folder} regenerates damaged scenes")


def _line(record: Line) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _schema(pyarrow: Any) -> Any:
    """Return the columns, with their feature types for `datasets`."""
    picture = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    types = dict.fromkeys(_COLUMNS, pyarrow.string()) | dict.fromkeys(_PICTURES, picture) | {"seed": pyarrow.int64()}
    features: dict[str, Any] = {name: {"dtype": "string", "_type": "Value"} for name in types}
    features |= {name: {"_type": "Image"} for name in _PICTURES} | {"seed": {"dtype": "int64", "_type": "Value"}}
    return pyarrow.schema(types, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _row(record: Line, image: bytes, label: bytes) -> Line:
    pictures = {
        kind: {"bytes": data, "path": Path(record[kind]).name}
        for kind, data in zip(_PICTURES, (image, label), strict=True)
    }
    rest = {name: record[name] for name in _COLUMNS if name in record}
    return {**rest, **pictures, "record": _line(record).decode()}
