"""``dgkit merge``: join the folders of shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dgkit.cli.common import interruptible, print_json, progress_bars, say
from dgkit.cli.options import Json
from dgkit.texts import count_of

STAGES = {"verify": ("Verifying", "images"), "merge": ("Merging", "images"), "card": ("Counting classes", "labels"),
          "measure": ("Measuring", "scenes"), "filter": ("Filtering", "labels")}  # fmt: skip


def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to create; the same command resumes it")],
    parts: Annotated[list[Path], typer.Argument(metavar="PART...", help="Folders of dgkit generate --shard I/N")],
    copy: Annotated[bool, typer.Option("--copy", help="Copy files even where hard links are possible")] = False,
    as_json: Json = False,
) -> None:
    """Join the shards of one run: OUT becomes the folder that a single run would have made.

    Every image of every part is verified first. It is an error if settings differ, parts overlap, or parts are missing.
    The parts stay as they are.
    """
    from dgkit.generation.merging import merge as run
    from dgkit.outputs.card import write_card
    from dgkit.outputs.summary import known_source
    from dgkit.progress import within

    with interruptible(), progress_bars(STAGES) as progress:
        result = run(out, parts, copy=copy, progress=progress)
        write_card(out, source_pixels=known_source(parts), progress=within(progress, "card"))
    if as_json:
        print_json(result.to_json())
    else:
        say(f"{count_of(len(result.records), 'labelled scene')} from {count_of(len(parts), 'part')} in {out}")
