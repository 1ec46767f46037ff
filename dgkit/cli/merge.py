"""``dgkit merge``: the folders of shards become one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dgkit.cli.common import INTERRUPTED, console, print_json, progress_bars, say

STAGES = {"verify": ("Verifying", "images"), "merge": ("Merging", "images"), "card": ("Counting classes", "labels"),
          "measure": ("Measuring", "scenes"), "filter": ("Filtering", "labels")}  # fmt: skip


def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make; the same command again continues it.")],
    parts: Annotated[list[Path], typer.Argument(metavar="PART...", help="Folders of dgkit generate --shard I/N.")],
    copy: Annotated[bool, typer.Option("--copy", help="Copy files even where hard links would do.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON on stdout.")] = False,
) -> None:
    """Join the shards of one run: OUT becomes the folder that the run would have made alone.

    Every image of every part is verified first. Parts of other settings, parts that overlap and parts that together
    are not the whole run are refused. The parts stay as they are.
    """
    from dgkit.generation.merging import merge as run
    from dgkit.outputs.card import write_card
    from dgkit.outputs.summary import known_source

    try:
        with progress_bars(STAGES) as progress:
            result = run(out, parts, copy=copy, progress=progress)
            write_card(out, source_pixels=known_source(parts), progress=lambda *done: progress("card", *done))
    except KeyboardInterrupt:
        console().print("\nstopped; the same command continues", markup=False)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(result.to_json())
    else:
        say(f"{len(result.records)} labelled scenes of {len(parts)} parts in {out}")
