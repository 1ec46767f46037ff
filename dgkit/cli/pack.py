"""``dgkit pack``: a generated folder as shards, parquet files or an image folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dgkit.cli.common import INTERRUPTED, console, print_json, progress_bars, say, size_text

if TYPE_CHECKING:
    from dgkit.outputs.packing import PackResult

STAGES = {"count": ("Counting classes", "labels"), "pack": ("Packing", "images")}


def pack(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder that dgkit generate wrote.")],
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="Folder to fill; the same command again continues it.")],
    format: Annotated[
        str, typer.Option(help="webdataset (tar shards), parquet, or folder (images, labels, metadata).")
    ] = "webdataset",
    shard_size: Annotated[float, typer.Option(metavar="MB", help="Size of a shard, about, in 10^6 bytes.")] = 500,
    partial: Annotated[bool, typer.Option("--partial", help="Take what is there of a run that has not ended.")] = False,
    filtered: Annotated[
        bool, typer.Option("--filtered", help="Labels of dgkit filter, and only the scenes that it kept.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
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
    """Pack, showing progress; a word about the result goes to people. ``shard_bytes`` None: the usual size."""
    from dgkit.outputs.packing import SHARD_BYTES
    from dgkit.outputs.packing import pack as run

    size = SHARD_BYTES if shard_bytes is None else shard_bytes
    try:
        with progress_bars(STAGES) as progress:
            result = run(out, dest, format, shard_bytes=size, partial=partial, filtered=filtered, progress=progress)
    except KeyboardInterrupt:
        console().print(f"\nstopped; finished files are in {dest}, the same command continues", markup=False)
        raise typer.Exit(INTERRUPTED) from None
    files = f"{len(result.files)} files" if len(result.files) != 1 else "1 file"
    say(f"{result.images} scenes in {files} of {dest}, {size_text(result.bytes)}; checksums: {dest / 'SHA256SUMS'}")
    return result
