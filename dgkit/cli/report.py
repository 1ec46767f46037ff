"""``dgkit report``: write an HTML page about a generated folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from dgkit.cli.common import print_json, progress_bars, say
from dgkit.cli.options import Generated, Json, option
from dgkit.texts import count_of

STAGES = {"count": ("Counting classes", "labels"), "embed": ("Embedding", "scenes")}


def report(
    out: Generated,
    embed: Annotated[int | None, option("N", "Embed N downscaled scenes, for a page that stands alone")] = None,
    to: Annotated[Path | None, option("FILE", "Page to write instead of OUT/report.html; needs --embed")] = None,
    workers: Annotated[int, option("N", "Worker processes that count classes; 0: none")] = 0,
    as_json: Json = False,
) -> None:
    """Write OUT/report.html: gallery with labels, filters, classes against the source, agreement, throughput.

    The dataset card and the files next to it are rewritten as well. The page opens in any browser, without a server.
    """
    from dgkit.outputs.report_page import report as run

    with progress_bars(STAGES) as progress:
        result = run(out, embed=embed, to=to, workers=workers, progress=progress)
    if as_json:
        print_json(result.to_json())
    else:
        is_part = result.requested is not None and result.scenes < result.requested
        scenes = count_of(result.scenes, "finished scene" if is_part else "scene")
        requested = f" ({result.requested} requested)" if is_part else ""
        say(f"{result.shown} of {scenes}{requested}: {result.page}")
