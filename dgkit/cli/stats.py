"""``dgkit stats``: how much of each class a set of label maps holds, and how often rare class sampling draws it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgkit.cli.common import print_json, progress_bars

if TYPE_CHECKING:
    from dgkit.data.crops import CropRules
    from dgkit.data.datasets import Dataset
    from dgkit.data.index import ClassIndex


def stats(
    labels: Annotated[Path | None, typer.Option(help="Folder of label maps (PNG of train ids).")] = None,
    dataset: Annotated[str | None, typer.Option(metavar="NAME=DIR", help="Data set, e.g. gta=DIR.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val, test or all; only with --dataset.")] = None,
    encoding: Annotated[str | None, typer.Option(help="Ids in the files of --labels, e.g. cityscapes_ids.")] = None,
    label_scale: Annotated[float, typer.Option(help="Resize the maps by this factor first.")] = 1.0,
    size: Annotated[
        int, typer.Option(help="Side of the crop in pixels; sets how many pixels make a file eligible.")
    ] = 512,
    workers: Annotated[int, typer.Option(help="Processes that read; 0 reads in this one.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="File that keeps the counts; default: the user's cache.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Count the pixels of each class in a set of label maps."""
    from dgkit.data.crops import CropRules
    from dgkit.data.datasets import open_source

    rules = CropRules(size)
    source = open_source(labels, dataset, split, encoding)
    index = _index(source, label_scale, workers, cache)
    found = summary(index, rules)
    if as_json:
        print_json(found)
    else:
        _print_table(found)


def summary(index: ClassIndex, rules: CropRules) -> dict[str, Any]:
    """Totals of an index and one row per class; ``share`` is of the pixels that are not ignore."""
    from dgkit.data.crops import drawable_classes
    from dgkit.labels import CLASSES

    pixels = index.counts.sum(axis=0)
    labelled, total = int(pixels.sum()), int(index.sizes.astype("int64").prod(axis=1).sum())
    probabilities = drawable_classes(index, rules) if labelled else pixels * 0.0
    classes = [
        {
            "id": i,
            "name": name,
            "pixels": int(pixels[i]),
            "share": float(pixels[i] / max(1, labelled)),
            "files": int((index.counts[:, i] > 0).sum()),
            "eligible_files": int((index.counts[:, i] > rules.pixel_threshold).sum()),
            "probability": float(probabilities[i]),
        }
        for i, name in enumerate(CLASSES)
    ]
    return {
        "dataset": index.dataset.name,
        "root": str(index.dataset.root),
        "split": index.dataset.split,
        "label_scale": index.scale,
        "files": len(index.counts),
        "pixels": total,
        "ignored_share": (total - labelled) / total,
        "eligible_above": rules.pixel_threshold,
        "classes": classes,
    }


def _index(source: Dataset, scale: float, workers: int, cache: Path | None) -> ClassIndex:
    from dgkit.data.index import build_index, default_cache

    cache = cache or default_cache(source, scale)
    with progress_bars({"index": ("Reading label maps", "maps")}) as report:
        return build_index(source, scale, workers, cache, lambda done, total: report("index", done, total))


def _print_table(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{found['dataset']} ({found['split']}): {found['files']} label maps", title_justify="left")
    table.add_column("id", justify="right")
    table.add_column("class")
    for heading in ("pixels", "share", "files", f"files > {found['eligible_above']:g} px", "drawn"):
        table.add_column(heading, justify="right")
    for row in found["classes"]:
        table.add_row(
            str(row["id"]),
            row["name"],
            f"{row['pixels']:,}",
            f"{row['share']:.3%}",
            f"{row['files']:,}",
            f"{row['eligible_files']:,}",
            f"{row['probability']:.3%}",
        )
    console = Console()
    console.print(table)
    console.print(f"{found['pixels']:,} pixels, {found['ignored_share']:.2%} of them ignored", highlight=False)
