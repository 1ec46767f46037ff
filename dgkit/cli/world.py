"""``dgkit world``: draw the procedural city."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dgkit.cli.common import console, print_json, progress_bars


def world(
    out: Annotated[Path, typer.Argument(help="Folder to write; a folder of the same settings is continued.")],
    role: Annotated[str, typer.Option(help="source (GTA5-like, labelled) or prior (captioned, no labels).")] = "source",
    count: Annotated[int, typer.Option(help="Number of scenes.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the set.")] = 0,
    height: Annotated[int, typer.Option(help="Picture height in pixels.")] = 256,
    width: Annotated[int, typer.Option(help="Picture width in pixels.")] = 512,
    workers: Annotated[int, typer.Option(help="Processes that draw; the files do not depend on it.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Draw labelled or captioned street scenes from nothing but a seed."""
    from dgkit.world import write_role

    with progress_bars({"draw": (f"drawing {role}", "scenes")}) as report:
        write_role(
            out, role, count, seed, height=height, width=width, workers=workers,
            progress=lambda done: report("draw", done, count),
        )  # fmt: skip
    if as_json:
        print_json({"out": str(out), "role": role, "count": count, "seed": seed, "height": height, "width": width})
    else:
        console().print(f"{count} scenes of role {role} in {out}")
