"""``dgkit eval``: a segmenter on many data sets, by the protocols of the papers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgkit.cli.common import inform, interruptible, print_json, print_table, progress_bars, say
from dgkit.cli.options import Json, MmsegConfig, option, options_of, settings

if TYPE_CHECKING:
    from dgkit.evaluation.benchmark.eval_config import EvalConfig
    from dgkit.segmenters.base import Segmenter

STAGES = {"check": ("Checking files", "sets"), "score": ("Scoring", "images")}
OPTIONS = (
    "on out taxonomy network protocol split engine dtype device batch tta skip_bad save_predictions worst metrics "
    "classes resamples seed sets as_json"
)


@options_of("dgkit.evaluation.benchmark.eval_config:EvalConfig", {"": OPTIONS})
def evaluate(
    segmenters: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]SEGMENTER...",
            help="ONNX files, mmsegmentation checkpoints, SegFormer folders; several are compared with the first",
        ),
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
    """Score segmenters on labelled data sets: mIoU by set, condition and class, with a gallery of the worst.

    Several are compared: differences with 95 % intervals, and the same images under all of them.
    """
    from dgkit.config import load_config
    from dgkit.evaluation.benchmark.eval_config import EvalConfig

    config = load_config(EvalConfig, None, sets or (), strict=False if skip_bad else None, **flags)
    config.resolved_protocol()
    from dgkit.evaluation.benchmark.segmenter_names import name_segmenters

    paths = name_segmenters(segmenters)
    _check_options(paths, flags, network)
    opened = {name: _open(path, config, network) for name, path in paths.items()}
    with interruptible(f"run the same command again to resume {out}"), progress_bars(STAGES) as report:
        if len(opened) == 1:
            from dgkit.evaluation.benchmark.evaluate import evaluate as score

            result = score(next(iter(opened.values())), config, out, report, say)
        else:
            from dgkit.evaluation.benchmark.comparison import compare

            result = compare(opened, config, out, report, say)
    if as_json:
        print_json(result)
    elif len(opened) == 1:
        _print(result, out)
    else:
        _print_comparison(result, out)


def _check_options(paths: Mapping[str, Path], flags: Mapping[str, Any], network: Path | None) -> None:
    """Raise UsageError for an option that does not fit one segmenter, or several."""
    from dgkit.errors import UsageError

    if len(paths) > 1 and network is not None:
        raise UsageError(
            f"--config {network} cannot be combined with {len(paths)} segmenters",
            "put the config into the folder of its checkpoint, as config.py",
        )
    single = next((name for name in ("resamples", "seed") if name in flags and len(paths) == 1), None)
    if single is not None:
        raise UsageError(f"--{single} is for several segmenters; one was given", f"omit --{single}, or add a segmenter")


def _open(path: Path, config: EvalConfig, network: Path | None) -> Segmenter:
    """Return an opened segmenter and print its notes."""
    from dgkit.segmenters.opening import open_segmenter
    from dgkit.taxonomies import find_taxonomy

    opened = open_segmenter(
        path, config.engine, config.dtype, config.device, config=network, batch=config.batch, notify=inform,
        taxonomy=None if config.taxonomy is None else find_taxonomy(config.taxonomy),
    )  # fmt: skip
    for note in opened.notes:
        say(f"{path}: {note}")
    return opened


def _print(result: dict[str, Any], out: Path) -> None:
    from rich.markup import escape
    from rich.table import Table

    from dgkit.evaluation.benchmark.score_report import class_names, figure, figure_rows, percent, table_rows

    rows, figures = table_rows(result), figure_rows(result)
    table = Table(title=f"{result['segmenter']['path']}, protocol {result['protocol']['name']}", title_justify="left")
    for heading in ("", *(escape(row["name"]) for row in rows)):  # styles have names of the user
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("images", *(str(row["images"]) for row in rows))
    table.add_row("mIoU", *(percent(row["miou"]) for row in rows), style="bold", end_section=not figures)
    for key, text in figures.items():
        table.add_row(text, *(figure(row.get(key)) for row in rows), end_section=key == [*figures][-1])
    for name in class_names(result):
        table.add_row(name, *(percent(row["iou"].get(name)) for row in rows))
    print_table(table)
    _print_notes(result)
    say(f"reports: {out / 'report.json'}, {out / 'report.csv'}, {out / 'index.html'}")


def _print_notes(result: dict[str, Any]) -> None:
    for name, scores in result["sets"].items():
        if name.startswith("mapillary"):
            say(f"{name}: {'; '.join(scores['labels'])}{', halved' if scores['halved'] else ''}")
    for part in result["bad_files"]["skipped"]:
        say(f"skipped in {part['set']}: {part['count']} of kind '{part['kind']}'")


def _print_comparison(result: dict[str, Any], out: Path) -> None:
    from rich.markup import escape
    from rich.table import Table

    from dgkit.evaluation.benchmark.comparison_report import figure_headings, interval_text, p_text, signed
    from dgkit.evaluation.benchmark.score_report import figure, percent

    figures, first = figure_headings(result), result["reference"]
    table = Table(title=f"protocol {result['protocol']['name']}, differences to {first}", title_justify="left")
    for heading in ("data set", "images", "segmenter", "mIoU", "difference", "95 % interval", "p", *figures.values()):
        table.add_column(heading, justify="left" if heading in ("data set", "segmenter") else "right")
    for group, content in result["groups"].items():
        for name, scores in content["scores"].items():
            found = content["differences"].get(name, {}).get("miou")
            shown = ("", "", "") if found is None else (
                signed(found["difference"]), interval_text(found), p_text(found["p"]))  # fmt: skip
            start = (escape(group), str(content["images"])) if name == first else ("", "")
            end = name == [*content["scores"]][-1]
            table.add_row(*start, name, percent(scores["miou"]), *shown,
                          *(figure(scores.get(key)) for key in figures), end_section=end)  # fmt: skip
    print_table(table)
    _print_classes(result)
    _print_notes(result)
    say(f"reports: {out / 'report.json'}, {out / 'report.csv'}, {out / 'index.html'}, and {out / 'segmenters'}")


def _print_classes(result: dict[str, Any]) -> None:
    """Print the difference of each class IoU for each data set; a star marks intervals that exclude zero."""
    from rich.table import Table

    from dgkit.evaluation.benchmark.comparison_report import excludes_zero, signed

    columns = {
        (dataset, name): found["iou"]
        for dataset in result["sets"]
        for name, found in result["groups"][dataset]["differences"].items()
    }
    table = Table(title="differences of class IoU; *: the 95 % interval excludes 0", title_justify="left", min_width=60)
    table.add_column("")
    for dataset, name in columns:
        table.add_column(f"{dataset}\n{name}", justify="right")
    for row in next(iter(columns.values())):
        cells = (found[row] for found in columns.values())
        table.add_row(row, *(signed(one["difference"]) + ("*" if excludes_zero(one) else " ") for one in cells))
    print_table(table)
