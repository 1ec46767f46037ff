"""``dgkit verify``: check that every image of a folder is present and intact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dgkit.cli.common import inform, interruptible, print_json, progress_bars, say
from dgkit.cli.generate import STAGES as GENERATE_STAGES
from dgkit.cli.options import Generated, Json
from dgkit.texts import count_of

if TYPE_CHECKING:
    from dgkit.generation.verification import VerifyResult

STAGES = {"verify": ("Verifying", "images"), **GENERATE_STAGES}
SHOWN = 20  # problems listed for people; --json has all


def verify(
    out: Generated,
    repair: Annotated[bool, typer.Option("--repair", help="Remake missing or damaged images, as they were")] = False,
    as_json: Json = False,
) -> None:
    """Check that every image is present, readable, of the right size and labelled, and that nothing else is there.

    Exits with code 1 if there is a problem. Nothing is written without --repair.
    """
    from dgkit.generation.verification import verify as run

    with interruptible("run the same command again to restart"), progress_bars(STAGES) as progress:
        result = run(out, repair=repair, progress=progress, notify=inform)
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
        changed = f", {result.changed} of them with different bytes than before" if result.changed else ""
        say(f"{count_of(result.repaired, 'problem')} repaired, {count_of(result.redrawn, 'image')} remade{changed}")
    if not result.problems:
        say(f"{count_of(result.images, 'image')}: files, labels and manifest are in order")
    elif not repair:
        say(f"to fix: dgkit verify {result.out} --repair")
