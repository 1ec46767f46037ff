"""``dgkit eval``: a segmenter on many data sets, by the protocols of the papers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dgkit.cli.common import print_json, print_table, progress_bars, say

STAGES = {"check": ("Checking files", "sets"), "score": ("Scoring", "images")}


def evaluate(
    segmenter: Annotated[
        Path,
        typer.Argument(
            metavar="SEGMENTER",
            help="An .onnx file, a checkpoint of mmsegmentation, or a transformers SegFormer folder.",
        ),
    ],
    on: Annotated[
        list[str],
        typer.Option(metavar="NAME=DIR", help="Data set: cityscapes, bdd, mapillary, acdc, darkzurich; repeatable."),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the reports; the same command again continues it.")
    ] = Path("eval"),
    network: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE.py", help="mmsegmentation's config of a checkpoint; it is executed."),
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="dginstyle (default), hrda, half or whole.", show_default=False)
    ] = None,
    split: Annotated[str | None, typer.Option(help="train, val (default), test or all.", show_default=False)] = None,
    engine: Annotated[
        str | None, typer.Option(help="torch, compile, ort, openvino or trt; ONNX files: ort or openvino.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Number format: fp32 (default), bf16 or fp16.", show_default=False)
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.", show_default=False)] = None,
    batch: Annotated[int | None, typer.Option(help="Windows of one call.", show_default=False)] = None,
    tta: Annotated[bool, typer.Option("--tta", help="Average with the mirrored picture.")] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad/--strict", help="Leave bad files out and say so, or refuse them.")
    ] = False,
    save_predictions: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the predicted label maps (train ids) there.")
    ] = None,
    worst: Annotated[
        int | None, typer.Option(help="Pictures of each set in the gallery: the worst.", show_default=False)
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="One value, e.g. crop=768 or workers=8; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Score a segmenter on labelled data sets: mIoU by set, condition and class, with a gallery of the worst."""
    from dgkit.config import load_config
    from dgkit.evaluation.benchmark.eval_config import EvalConfig

    config = load_config(
        EvalConfig, None, sets or (), on=tuple(on), split=split, protocol=protocol, engine=engine, dtype=dtype,
        device=device, tta=tta or None, batch=batch, strict=False if skip_bad else None,
        save_predictions=save_predictions, worst=worst,
    )  # fmt: skip
    config.resolved_protocol()
    from dgkit.evaluation.benchmark.score_report import evaluate as run
    from dgkit.segmenters.opening import open_segmenter

    opened = open_segmenter(
        segmenter, config.engine, config.dtype, config.device, config=network, batch=config.batch, notify=say
    )
    with progress_bars(STAGES) as report:
        result = run(opened, config, out, report)
    if as_json:
        print_json(result)
    else:
        _print(result, out)


def _print(result: dict[str, Any], out: Path) -> None:
    from rich.table import Table

    from dgkit.evaluation.benchmark.score_report import percent, table_rows
    from dgkit.labels import CLASSES

    rows = table_rows(result)
    table = Table(title=f"{result['segmenter']['path']}, protocol {result['protocol']['name']}", title_justify="left")
    for heading in ("", *(row["name"] for row in rows)):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("images", *(str(row["images"]) for row in rows))
    table.add_row("mIoU", *(percent(row["miou"]) for row in rows), style="bold", end_section=True)
    for name in CLASSES:
        table.add_row(name, *(percent(row["iou"].get(name)) for row in rows))
    print_table(table)
    for name, scores in result["sets"].items():
        if name.startswith("mapillary"):
            say(f"{name}: {'; '.join(scores['labels'])}{', halved' if scores['halved'] else ''}")
    for part in result["bad_files"]["skipped"]:
        say(f"left out of {part['set']}: {part['count']} of kind '{part['kind']}'")
    say(f"reports: {out / 'report.json'}, {out / 'report.csv'}, {out / 'index.html'}")
