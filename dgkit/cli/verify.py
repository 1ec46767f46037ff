"""``dgkit verify``: is every image of a folder there and whole?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dgkit.cli.common import INTERRUPTED, console, print_json, progress_bars, say
from dgkit.cli.generate import STAGES as GENERATE_STAGES

if TYPE_CHECKING:
    from dgkit.generation.verification import VerifyResult

STAGES = {"verify": ("Verifying", "images"), **GENERATE_STAGES}
SHOWN = 20  # problems that are listed; --json has all


def verify(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder that dgkit generate or dgkit merge wrote.")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Make the images that are missing or damaged again, as they were.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all that was found as JSON on stdout.")] = False,
) -> None:
    """Check that every image is there, readable, of the right size and with its label, and that nothing else is.

    Exit code 1 where something is wrong. Without --repair nothing is written.
    """
    from dgkit.generation.verification import verify as run

    try:
        with progress_bars(STAGES) as progress:
            result = run(out, repair=repair, progress=progress, notify=say)
    except KeyboardInterrupt:
        console().print("\nstopped; the same command begins again", markup=False)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(result.to_json())
    else:
        _report(result, repair)
    if result.problems:
        raise typer.Exit(1)


def _report(result: VerifyResult, repair: bool) -> None:
    from dgkit.generation.verification import KINDS

    for problem in result.problems[:SHOWN]:
        image = "" if problem.index is None else f"image {problem.index}"
        say(f"{problem.kind}: {' '.join(part for part in (problem.path, image) if part)}")
    if len(result.problems) > SHOWN:
        say(f"... and {len(result.problems) - SHOWN} more")
    for kind, count in result.counts.items():
        say(f"{count} {KINDS[kind]}")
    if repair and result.repaired:
        changed = f", {result.changed} of them with other bytes than before" if result.changed else ""
        say(f"{result.repaired} problems repaired, {result.redrawn} images made again{changed}")
    if not result.problems:
        say(f"{result.images} images and their labels are in order")
    elif not repair:
        say(f"to mend it: dgkit verify {result.out} --repair")
