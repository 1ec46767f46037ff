"""``dgkit report``: one page to look at a generated folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dgkit.cli.common import print_json, progress_bars, say

STAGES = {"count": ("Counting classes", "labels"), "embed": ("Embedding", "scenes")}


def report(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder that dgkit generate wrote.")],
    embed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Put N scenes into the page itself, small, so that it may be sent away."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Another file than OUT/report.html; only with --embed.")
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", help="Processes that count the classes of the labels.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print where the page lies as JSON.")] = False,
) -> None:
    """Write OUT/report.html: gallery with labels, filters, classes against the source, agreement, throughput.

    The dataset card and the files beside it are written anew as well. Open the page in any browser; no server.
    """
    from dgkit.outputs.report_page import report as run

    with progress_bars(STAGES) as progress:
        result = run(out, embed=embed, to=to, workers=workers, progress=progress)
    if as_json:
        print_json(result.to_json())
    else:
        say(f"{result.shown} of {result.scenes} scenes: {result.page}")
