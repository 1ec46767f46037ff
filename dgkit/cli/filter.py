"""``dgkit filter``: labels in which pixels that do not show their class are ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dgkit.cli.common import interruptible, print_json, print_table, progress_bars, say, warn_of_weak_segmenter
from dgkit.cli.options import Json, Scenes, options_of
from dgkit.texts import count_of

MOST = 0.8  # share of the labelled pixels or scenes that a useful filter does not drop
STAGES = {
    "reference": ("Measuring the reference", "images"),
    "measure": ("Measuring", "scenes"),
    "filter": ("Filtering", "scenes"),
}


@options_of(
    "dgkit.generation.filter_config:FilterConfig",
    {"": "segmenter threshold reference boundary min_agreement duplicates as_json"},
)
def filter_labels(out: Scenes, flags: dict[str, Any], as_json: Json = False) -> None:
    """Write OUT/labels_filtered, where pixels that do not show their label are ignored; labels/ stays as it is.

    The same command resumes. `dgkit train segmenter --set data.filtered=true` trains on the filtered labels.
    """
    from dgkit.generation.filter_folder import filter_folder

    with interruptible(), progress_bars(STAGES) as report:
        found = filter_folder(out, progress=report, **flags)
    for note in found.get("segmenter_notes", ()):
        say(f"{found['settings']['segmenter']}: {note}")
    mean = found["agreement"]["mean"] if found["agreement"] else None
    warn_of_weak_segmenter(mean, "labels filtered by it say little", "--segmenter")
    if max(found["ignored_share"], len(found["left_out"]) / found["scenes"]) > MOST:
        say(
            f"warning: more than {MOST:.0%} of the pixels or scenes were dropped; check segmenter, threshold and limits"
        )
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
    agreement = found["agreement"]
    if agreement:
        figures = f"mean {agreement['mean']:.1%}, median {agreement['median']:.1%}, least {agreement['least']:.1%}"
        say(f"agreement of the scenes: {figures}")
    share = f"{found['ignored_share']:.1%} of the labelled pixels ignored"
    say(f"{share}, {count_of(len(found['left_out']), 'scene')} dropped: {out / 'labels_filtered'}")
