"""``dgkit eval``: a segmenter on many data sets, by the protocols of the papers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dgkit.cli.common import inform, interruptible, print_json, print_table, progress_bars, say
from dgkit.cli.options import Json, MmsegConfig, option, options_of, settings

STAGES = {"check": ("Checking files", "sets"), "score": ("Scoring", "images")}
OPTIONS = (
    "on out taxonomy network protocol split engine dtype device batch tta skip_bad save_predictions worst metrics "
    "classes sets as_json"
)


@options_of("dgkit.evaluation.benchmark.eval_config:EvalConfig", {"": OPTIONS})
def evaluate(
    segmenter: Annotated[
        Path, typer.Argument(metavar="SEGMENTER", help="ONNX file, mmsegmentation checkpoint or SegFormer folder")
    ],
    flags: dict[str, Any],
    out: Annotated[Path, option("DIR", "Folder for the reports; the same command resumes it")] = Path("eval"),
    network: MmsegConfig = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad/--strict", help="Skip and report bad files, or refuse them")
    ] = False,
    sets: Annotated[list[str] | None, settings("crop=768")] = None,
    as_json: Json = False,
) -> None:
    """Score a segmenter on labelled data sets: mIoU by set, condition and class, with a gallery of the worst."""
    from dgkit.config import load_config
    from dgkit.evaluation.benchmark.eval_config import EvalConfig

    config = load_config(EvalConfig, None, sets or (), strict=False if skip_bad else None, **flags)
    config.resolved_protocol()
    from dgkit.evaluation.benchmark.evaluate import evaluate as run
    from dgkit.segmenters.opening import open_segmenter
    from dgkit.taxonomies import find_taxonomy

    opened = open_segmenter(
        segmenter, config.engine, config.dtype, config.device, config=network, batch=config.batch, notify=inform,
        taxonomy=None if config.taxonomy is None else find_taxonomy(config.taxonomy),
    )  # fmt: skip
    for note in opened.notes:
        say(f"{segmenter}: {note}")
    with interruptible(f"run the same command again to resume {out}"), progress_bars(STAGES) as report:
        result = run(opened, config, out, report, say)
    if as_json:
        print_json(result)
    else:
        _print(result, out)


def _print(result: dict[str, Any], out: Path) -> None:
    from rich.table import Table

    from dgkit.evaluation.benchmark.score_report import class_names, figure, figure_rows, percent, table_rows

    rows, figures = table_rows(result), figure_rows(result)
    table = Table(title=f"{result['segmenter']['path']}, protocol {result['protocol']['name']}", title_justify="left")
    for heading in ("", *(row["name"] for row in rows)):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("images", *(str(row["images"]) for row in rows))
    table.add_row("mIoU", *(percent(row["miou"]) for row in rows), style="bold", end_section=not figures)
    for key, text in figures.items():
        table.add_row(text, *(figure(row.get(key)) for row in rows), end_section=key == [*figures][-1])
    for name in class_names(result):
        table.add_row(name, *(percent(row["iou"].get(name)) for row in rows))
    print_table(table)
    for name, scores in result["sets"].items():
        if name.startswith("mapillary"):
            say(f"{name}: {'; '.join(scores['labels'])}{', halved' if scores['halved'] else ''}")
    for part in result["bad_files"]["skipped"]:
        say(f"skipped in {part['set']}: {part['count']} of kind '{part['kind']}'")
    say(f"reports: {out / 'report.json'}, {out / 'report.csv'}, {out / 'index.html'}")
