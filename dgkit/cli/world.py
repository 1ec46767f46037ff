"""``dgkit world``: draw the procedural city."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dgkit.cli.common import console, print_json, progress_bars

_ROLES = (
    "source (labelled, laid out like GTA5), prior (captioned, no labels), or a labelled target in the layout of its "
    "set: cityscapes, bdd, mapillary, acdc, darkzurich."
)


def world(
    out: Annotated[Path, typer.Argument(help="Folder to write; a folder of the same settings is continued.")],
    role: Annotated[str, typer.Option(help=_ROLES)] = "source",
    count: Annotated[int, typer.Option(help="Number of scenes.")] = 1000,
    split: Annotated[
        str | None, typer.Option(help="train, val or test: splits share no scene.", show_default="the set's usual one")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the set.")] = 0,
    height: Annotated[int, typer.Option(help="Picture height in pixels.")] = 256,
    width: Annotated[
        int | None,
        typer.Option(help="Picture width in pixels.", show_default="the set's proportions; mapillary mixes sizes"),
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that draw; the files do not depend on it.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Draw labelled or captioned street scenes from nothing but a seed."""
    from dgkit.world import write_role

    with progress_bars({"draw": (f"drawing {role}", "scenes")}) as report:
        write_role(
            out, role, count, seed, height=height, width=width, split=split, workers=workers,
            progress=lambda done, total: report("draw", done, total),
        )  # fmt: skip
    if as_json:
        print_json(
            {"out": str(out), "role": role, "split": split, "count": count, "seed": seed, "height": height,
             "width": width}
        )  # fmt: skip
    else:
        console().print(f"{count} scenes of role {role} in {out}")
