"""``dgkit pack``: write a generated folder as tar shards, parquet files or an image folder.

File sizes decide before anything is written which scene goes into which file. A file is complete or absent, and its
line in ``SHA256SUMS`` is written after it, so the same call resumes where the last one ended.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgkit.data.generated import GeneratedFolder, Line, open_generated
from dgkit.data.manifest import MAX_BYTES
from dgkit.errors import OutputError, UsageError, did_you_mean
from dgkit.files import (
    atomic_write,
    digest_file,
    is_hidden,
    json_bytes,
    open_append,
    output_error,
    parse_json,
    read_file,
    remove_stale_temporaries,
    user_path,
    write_changed,
)
from dgkit.locks import sole_writer
from dgkit.optional import require
from dgkit.outputs.card import METADATA, SNIPPET, metadata_lines, mmseg_snippet, write_readme
from dgkit.outputs.class_pixels import count_classes
from dgkit.outputs.shards import (
    EXTRA,
    FileDigests,
    OnWritten,
    file_size,
    tar_size,
    tree_path,
    write_parquet,
    write_tar,
    write_tree,
)
from dgkit.outputs.summary import Summary, summarise, write_summary
from dgkit.progress import Advance, Progress, within

FORMATS = ("folder", "webdataset", "parquet")
SUMS, SETTINGS = "SHA256SUMS", "pack.json"
LARGEST_SCENE = 2 << 30  # bytes; a shard holds at least one, whatever its size
SHARD_BYTES = 500_000_000  # recommended by WebDataset and the Hugging Face hub: large reads, few files
_TREE_SCENES = 256  # scenes of an image folder that are recorded in SHA256SUMS together
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


@dataclass(frozen=True)
class Shard:
    """Scenes that are written together: one file, or a part of an image folder."""

    name: str
    records: tuple[Line, ...]


@dataclass(frozen=True)
class PackResult:
    """Result of :func:`pack`.

    ``files``: paths of the files with scenes, relative to ``dest``; ``bytes``: their total size. ``written``: number of
    shards written by this call; ``continued``: number of shards that were there before.
    """

    dest: Path
    format: str
    images: int
    files: tuple[str, ...]
    bytes: int
    written: int
    continued: int

    def to_json(self) -> dict[str, Any]:
        """Return what ``dgkit pack --json`` prints."""
        return {
            "dest": str(self.dest), "format": self.format, "images": self.images, "files": len(self.files),
            "bytes": self.bytes, "written": self.written, "continued": self.continued,
        }  # fmt: skip


def pack(
    out: Path | str,
    dest: Path | str,
    format: str,
    *,
    shard_bytes: int = SHARD_BYTES,
    partial: bool = False,
    filtered: bool = False,
    progress: Progress | None = None,
) -> PackResult:
    """Pack the generated folder ``out`` into ``dest``, with SHA256SUMS, a dataset card and the settings in pack.json.

    ``format`` is "webdataset" (tar shards of about ``shard_bytes``), "parquet" (files of about that size) or "folder"
    (an image folder for `datasets` and mmsegmentation, with hard links if possible). Each scene is compared with the
    digests of the manifest when it is read. ``partial`` accepts a folder whose run has not finished. ``filtered`` packs
    the labels of ``dgkit filter``, and only the scenes that it kept. ``progress`` reports the stages "count" and "pack"
    in scenes.

    Raises UsageError for an unknown format or size, InputError for a folder or scene that cannot be used, OutputError
    if ``dest`` is in use, holds other files or cannot be written, MissingDependency without pyarrow.
    """
    check_format(format)
    if shard_bytes < 1:
        raise UsageError(f"a shard size of {shard_bytes} bytes; allowed: 1 or more", "use for example --shard-size 500")
    source, dest = open_generated(out, partial=partial, filtered=filtered), user_path(dest)
    summary = summarise(source, count_classes(source, 0, within(progress, "count")))
    plan = plan_shards(source, format, shard_bytes)
    with _opened(dest, _identity(source, format, shard_bytes)):
        wanted = {name for shard in plan for name in names(shard, format)}
        done = _finished(dest, wanted, shard_bytes + LARGEST_SCENE)
        written = _write_missing(source.path, dest, format, plan, done, within(progress, "pack"))
        _complete(dest, format, source.records, summary)
        atomic_write(dest / SUMS, "".join(f"{digest}  {name}\n" for name, digest in sorted(done.items())).encode())
    sizes = sum((dest / name).stat().st_size for name in done)
    return PackResult(dest, format, len(source.records), tuple(sorted(done)), sizes, written, len(plan) - written)


def check_format(format: str) -> None:
    """Raise UsageError for a format that is not in :data:`FORMATS`, MissingDependency if its library is missing."""
    if format not in FORMATS:
        raise UsageError(
            f"unknown format {format!r}; known formats: {', '.join(FORMATS)}",
            did_you_mean(format, FORMATS, "use for example webdataset"),
        )
    if format == "parquet":
        require("pyarrow.parquet", EXTRA)


def plan_shards(source: GeneratedFolder, format: str, shard_bytes: int) -> tuple[Shard, ...]:
    """Distribute the scenes over shards in job order; a shard ends before the scene that would make it too large."""
    if format == "folder":
        records = source.records
        return tuple(Shard("train", records[i : i + _TREE_SCENES]) for i in range(0, len(records), _TREE_SCENES))
    groups = [tuple(group) for group in _by_size(source, format, shard_bytes)]
    name = "train-{:06d}.tar" if format == "webdataset" else "data/train-{:05d}-of-{:05d}.parquet"
    return tuple(Shard(name.format(i, len(groups)), group) for i, group in enumerate(groups))


def _by_size(source: GeneratedFolder, format: str, limit: int) -> Iterator[list[Line]]:
    group: list[Line] = []
    size = 0
    for record in source.records:
        if format == "webdataset":
            more = tar_size(source.path, record)
        else:
            more = sum(file_size(source.path, record, kind) for kind in ("image", "label"))
        if group and size + more > limit:
            yield group
            group, size = [], 0
        group.append(record)
        size += more
    yield group


def _write_missing(
    source: Path, dest: Path, format: str, plan: Sequence[Shard], done: FileDigests, report: Advance
) -> int:
    """Write the shards that are not in ``done``, add them to it, and return their number."""
    writers: dict[str, Callable[[Path, Sequence[Line], Path, str, OnWritten], FileDigests]]
    writers = {"webdataset": write_tar, "parquet": write_parquet, "folder": write_tree}
    total, ready, written = sum(len(shard.records) for shard in plan), 0, 0

    def on_written(count: int) -> None:
        nonlocal ready
        ready += count
        report(ready, total)

    for shard in plan:
        if names(shard, format) <= done.keys():
            on_written(len(shard.records))
            continue
        made = writers[format](source, shard.records, dest, shard.name, on_written)
        _append_sums(dest / SUMS, made)
        done.update(made)
        written += 1
    return written


def names(shard: Shard, format: str) -> set[str]:
    """Return the paths of a shard's files, relative to the target folder."""
    if format != "folder":
        return {shard.name}
    return {f"{shard.name}/{tree_path(record, kind)}" for record in shard.records for kind in ("image", "label")}


def _complete(dest: Path, format: str, records: Sequence[Line], summary: Summary) -> None:
    if format == "folder":
        write_changed(dest / "train" / METADATA, metadata_lines(records))
        write_changed(dest / SNIPPET, mmseg_snippet("train/", summary.taxonomy).encode())
    write_summary(summary, dest)
    write_readme(dest, summary, format)


def _identity(source: GeneratedFolder, format: str, shard_bytes: int) -> dict[str, Any]:
    """Return the settings and scenes that determine the files in the target."""
    lines = "".join(json.dumps(record, sort_keys=True) + "\n" for record in source.records)
    settings = {"format": format, "images": len(source.records), "scenes": hashlib.sha256(lines.encode()).hexdigest()}
    return settings if format == "folder" else {**settings, "shard_bytes": shard_bytes}


@contextlib.contextmanager
def _opened(dest: Path, identity: dict[str, Any]) -> Iterator[None]:
    """Lock ``dest``. Raises OutputError unless it is empty or holds an earlier part of the same pack."""
    if dest.exists() and not dest.is_dir():
        raise OutputError(f"{dest} is a file; an output folder is needed", "choose another name")
    try:
        dest.mkdir(parents=True, exist_ok=True)
        with sole_writer(dest):
            _refuse_others(dest, identity)
            atomic_write(dest / SETTINGS, json_bytes(identity))
            for folder in {dest, *(path for path in dest.rglob("*") if path.is_dir())}:
                remove_stale_temporaries(folder)
            yield
    except OSError as error:
        raise output_error(dest, error) from error


def _refuse_others(dest: Path, identity: dict[str, Any]) -> None:
    try:
        old = dict(parse_json(read_file(dest / SETTINGS)))
    except (OSError, ValueError, TypeError):
        found = [entry.name for entry in dest.iterdir() if not is_hidden(entry.name)]
        if found:
            shown = ", ".join(sorted(found)[:3])
            raise OutputError(f"{dest} holds other files ({shown})", "choose a new or empty folder") from None
        return
    changed = sorted(key for key in {*old, *identity} if old.get(key) != identity.get(key))
    if changed:
        raise OutputError(
            f"{dest} was packed from other scenes or with other settings ({', '.join(changed)} differ)",
            "choose a new or empty folder",
        )


def _finished(dest: Path, wanted: set[str], largest: int) -> FileDigests:
    """Return the files of at most ``largest`` bytes that still have the digest in SHA256SUMS.

    Others are written again.
    """
    try:
        lines = read_file(dest / SUMS, MAX_BYTES).decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        return {}
    listed = {match[2]: match[1] for match in map(_LINE.fullmatch, lines) if match}
    chosen = {name: digest for name, digest in listed.items() if name in wanted}
    return {name: digest for name, digest in chosen.items() if _digest(dest / name, largest) == digest}


def _digest(path: Path, largest: int) -> str | None:
    try:
        if path.is_symlink() or path.stat().st_size > largest:  # a packed folder holds its files itself
            return None
        return digest_file(path)
    except OSError:
        return None


def _append_sums(sums: Path, made: FileDigests) -> None:
    """Append lines and wait until they are on disk. The file of a line that a kill cut short counts as absent."""
    data = "".join(f"{digest}  {name}\n" for name, digest in made.items()).encode()
    try:
        torn = sums.is_file() and sums.stat().st_size > 0 and not read_file(sums, MAX_BYTES).endswith(b"\n")
        with open_append(sums) as stream:
            stream.write(b"\n" * torn + data)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise output_error(sums, error) from error
