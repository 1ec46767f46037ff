"""``dgkit pack``: write a generated folder as tar shards, parquet files or an image folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dgkit.cli.common import interruptible, print_json, progress_bars, say, size_text
from dgkit.cli.options import Generated, Json, option
from dgkit.texts import count_of

if TYPE_CHECKING:
    from dgkit.outputs.packing import PackResult

STAGES = {"count": ("Counting classes", "labels"), "pack": ("Packing", "images")}


def pack(
    out: Generated,
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to fill; the same command resumes it")],
    format: Annotated[
        str, option("F", "webdataset (tar shards), parquet, or folder (images, labels, metadata)")
    ] = "webdataset",
    shard_size: Annotated[float, option("MB", "Approximate shard size in MB (10^6 bytes)")] = 500,
    partial: Annotated[bool, typer.Option("--partial", help="Pack the finished images of an unfinished run")] = False,
    filtered: Annotated[
        bool, typer.Option("--filtered", help="Pack the filtered labels and scenes of dgkit filter")
    ] = False,
    as_json: Json = False,
) -> None:
    """Pack a generated folder for WebDataset or Hugging Face datasets, with checksums and a dataset card."""
    result = pack_with_bars(out, dest, format, round(shard_size * 1e6), partial, filtered)
    if as_json:
        print_json(result.to_json())


def pack_with_bars(
    out: Path,
    dest: Path,
    format: str,
    shard_bytes: int | None = None,
    partial: bool = False,
    filtered: bool = False,
) -> PackResult:
    """Pack ``out`` into ``dest`` with a progress bar, and print a summary on stderr.

    ``shard_bytes`` None: the default size.
    """
    from dgkit.outputs.packing import SHARD_BYTES
    from dgkit.outputs.packing import pack as run

    size = SHARD_BYTES if shard_bytes is None else shard_bytes
    with interruptible(f"run the same command again to resume {dest}"), progress_bars(STAGES) as progress:
        result = run(out, dest, format, shard_bytes=size, partial=partial, filtered=filtered, progress=progress)
    scenes, files = count_of(result.images, "scene"), count_of(len(result.files), "file")
    say(f"{scenes} in {files} of {dest}, {size_text(result.bytes)}; checksums: {dest / 'SHA256SUMS'}")
    return result
