"""``dgkit quality``: measure how well generated pictures show their labels and prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dgkit.cli.common import print_json, print_table, progress_bars, say
from dgkit.cli.options import Json, Scenes, option
from dgkit.texts import count_of

WEAK_JUDGE = 0.2  # mIoU on the reference below which figures relative to it say little
STAGES = {"measure": ("Measuring", "images"), "reference": ("Measuring the reference", "images")}


def quality(
    out: Scenes,
    judge: Annotated[Path | None, option("DIR", "Folder written by dgkit train judge")] = None,
    segmenter: Annotated[Path | None, option("ONNX", "Segmenter to use instead of the judge's")] = None,
    styles: Annotated[Path | None, option("ONNX", "Style classifier to use instead of the judge's")] = None,
    reference: Annotated[
        str | None, option("REF", "Compare with a folder, a role's renders (prior), or `paired` renders")
    ] = None,
    features: Annotated[
        str, option("F", "Feature space of distances: judge, or imagenet (EfficientNet-Lite0)")
    ] = "judge",
    as_json: Json = False,
) -> None:
    """Measure label agreement, styles, distances and diversity of a folder; write OUT/quality.json."""
    from dgkit.data.folder_taxonomy import folder_taxonomy
    from dgkit.evaluation.quality.features import open_features
    from dgkit.evaluation.quality.measures import find_judge, measure_quality

    own = folder_taxonomy(out)
    found = find_judge(judge, segmenter, styles, own, open_features(features))
    if own is not None and own != found.segmenter.taxonomy:
        say(f"label maps of {own.name} are read as the {found.segmenter.taxonomy.size} classes of the judge")
    for note in found.segmenter.notes:
        say(f"{found.segmenter.path}: {note}")
    with progress_bars(STAGES) as report:
        result = measure_quality(out, found, reference, progress=report)
    _warn_of_weak_judge(result.get("reference"))
    if as_json:
        print_json(result)
    else:
        _print_tables(result)


def _warn_of_weak_judge(real: dict[str, Any] | None) -> None:
    if real and (real["agreement"]["miou"] or 0) < WEAK_JUDGE:
        say(
            f"warning: the judge reaches only {_percent(real['agreement']['miou'])} mIoU on the reference itself, too "
            "little to compare images with it; use another judge or reference"
        )


def _print_tables(result: dict[str, Any]) -> None:
    from rich.table import Table

    real = result.get("reference")
    table = Table(title=f"{result['out']}: {count_of(result['images'], 'image')}", title_justify="left")
    for heading in ("", "here", *([f"reference: {real['what']}"] if real else [])):
        table.add_column(heading, justify="left" if not heading else "right")
    columns = [result, *([real] if real else [])]
    for name, key in (("label agreement, mIoU", "miou"), ("  small classes", "small_miou"),
                      ("  pixel accuracy", "pixel_accuracy")):  # fmt: skip
        table.add_row(name, *(_percent(column["agreement"][key]) for column in columns))
    for name in result["agreement"]["iou"]:
        table.add_row(f"  {name}", *(_percent(column["agreement"]["iou"][name]) for column in columns))
    table.add_row("style accuracy", *(_percent((column["style"] or {}).get("accuracy")) for column in columns))
    table.add_row("diversity of features", *(_number(column["diversity"]) for column in columns))
    table.add_row("ignored pixels", *(_percent(column["ignored_share"]) for column in columns))
    print_table(table)
    if real:
        typer.echo(f"agreement relative to the reference: mIoU {_percent(real['relative_miou'])}")
        frechet, kernel = _number(real["frechet_distance"]), _number(real["kernel_distance"])
        typer.echo(
            f"Fréchet distance {frechet}, kernel distance {kernel}, in the feature space of {real['feature_space']}"
        )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
