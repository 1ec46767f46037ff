"""``dgkit filter``: second labels, in which pixels that do not show what their label says are ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dgkit.cli.common import INTERRUPTED, console, print_json, print_table, progress_bars

STAGES = {
    "reference": ("Measuring the reference", "pictures"),
    "measure": ("Measuring", "scenes"),
    "filter": ("Filtering", "scenes"),
}


def filter_labels(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder with images/ and labels/, as generate writes.")],
    segmenter: Annotated[
        Path | None, typer.Option(metavar="ONNX", help="Segmenter with logits: one of dgkit train, or any other.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="F", help="Ignore pixels above this many times the mean loss of their class [1.25]."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="SET", help="Mean losses of this labelled set, DIR or NAME=DIR, instead of OUT itself."),
    ] = None,
    boundary: Annotated[
        int | None, typer.Option(metavar="PX", help="Also ignore a band of 0 to 8 pixels beside other classes.")
    ] = None,
    min_agreement: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Leave scenes out of which less is seen as labelled, 0 to 1.")
    ] = None,
    duplicates: Annotated[
        int | None,
        typer.Option(
            metavar="BITS", help="Leave near-duplicates out: at most so many of 64 bits of their hashes differ."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what filter.json holds.")] = False,
) -> None:
    """Write OUT/labels_filtered, where pixels that do not show their label are ignored; labels/ stays as it is.

    The same command again continues. `dgkit train segmenter --set data.filtered=true` trains on the second labels.
    """
    from dgkit.generation.filter_folder import filter_folder

    settings: dict[str, Any] = {
        "segmenter": segmenter, "threshold": threshold, "reference": reference, "boundary": boundary,
        "min_agreement": min_agreement, "duplicates": duplicates,
    }  # fmt: skip
    try:
        with progress_bars(STAGES) as report:
            found = filter_folder(out, progress=report, **settings)
    except KeyboardInterrupt:
        console().print("\nstopped; the same command continues", markup=False)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(found)
    else:
        _print(out, found)


def _print(out: Path, found: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=f"{out}: {found['kept']} of {found['scenes']} scenes", title_justify="left")
    for heading in ("class", "pixels", "mean loss", "doubtful", "boundary"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for name, facts in found["classes"].items():
        if facts["pixels"]:
            shares = [f"{facts[key] / facts['pixels']:.1%}" for key in ("doubtful", "boundary")]
            loss = "-" if facts["mean_loss"] is None else f"{facts['mean_loss']:.3f}"
            table.add_row(name, f"{facts['pixels']:,}", loss, *shares)
    print_table(table)
    shown = console()
    agreement = found["agreement"]
    if agreement:
        figures = f"mean {agreement['mean']:.1%}, median {agreement['median']:.1%}, least {agreement['least']:.1%}"
        shown.print(f"agreement of the scenes: {figures}", markup=False)
    share = f"{found['ignored_share']:.1%} of the labelled pixels ignored"
    shown.print(f"{share}, {len(found['left_out'])} scenes left out: {out / 'labels_filtered'}", markup=False)
