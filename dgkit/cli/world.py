"""``dgkit world``: draw the procedural city."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dgkit.cli.common import interruptible, print_json, progress_bars, say
from dgkit.cli.options import Json, option
from dgkit.texts import count_of

_ROLES = "source (GTA5 layout), prior (captions), or cityscapes, bdd, mapillary, acdc, darkzurich (targets)"


def world(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder; the same command resumes it")],
    role: Annotated[str, typer.Option(metavar="ROLE", help=_ROLES)] = "source",
    count: Annotated[int, option("N", "Number of scenes")] = 1000,
    split: Annotated[
        str | None,
        typer.Option(metavar="S", help="train, val or test; no shared scenes", show_default="the set's usual one"),
    ] = None,
    seed: Annotated[int, option("S", "Random seed of the set")] = 0,
    height: Annotated[int, option("PX", "Image height in pixels")] = 256,
    width: Annotated[
        int | None,
        typer.Option(
            metavar="PX", help="Image width in pixels", show_default="the set's proportions; mapillary mixes sizes"
        ),
    ] = None,
    workers: Annotated[int, option("N", "Worker processes; do not affect the files")] = 2,
    as_json: Json = False,
) -> None:
    """Draw labelled or captioned street scenes from a seed."""
    from dgkit.world import write_role

    with interruptible(), progress_bars({"draw": (f"Drawing {role}", "scenes")}) as report:
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
        say(f"{count_of(count, 'scene')} of role {role} in {out}")
