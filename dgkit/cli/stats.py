"""``dgkit stats``: count the classes in label maps, and show how often rare class sampling selects them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgkit.cli.common import print_json, print_table, progress_bars, say
from dgkit.cli.options import Json, Taxonomy, option

if TYPE_CHECKING:
    from dgkit.data.crops import CropRules
    from dgkit.data.index import ClassIndex
    from dgkit.data.samples import Dataset
    from dgkit.taxonomies import Taxonomy as Classes

EMBEDDED = "embedded"  # the value of --model for the model that dgkit ships


def stats(
    labels: Annotated[Path | None, option("DIR", "Folder of label maps, or a pattern such as 'b/**/*.png'")] = None,
    dataset: Annotated[str | None, option("NAME=DIR", "Labelled data set, such as gta=DIR or cityscapes=DIR")] = None,
    split: Annotated[str | None, option("S", "Split of the data set: train, val, test or all")] = None,
    encoding: Annotated[str | None, option("E", "Ids or colours of the maps, such as cityscapes_ids")] = None,
    taxonomy: Taxonomy = None,
    model: Annotated[str | None, option("M", "Crop and scale as for a model: folder, hub id or embedded")] = None,
    label_scale: Annotated[
        float | None, option("F", "Scale factor of the label maps; default: 1, or that of --model")
    ] = None,
    size: Annotated[str | None, option("S", "Pixels of the crop: S or HEIGHTxWIDTH; default: the model's")] = None,
    workers: Annotated[int, option("N", "Processes that read label maps; 0: this one")] = 0,
    cache: Annotated[Path | None, option("FILE", "File that keeps the counts; default: the user's cache")] = None,
    as_json: Json = False,
) -> None:
    """Count the pixels of each class in a set of label maps."""
    from dgkit.data.crops import CropRules
    from dgkit.data.datasets import open_source
    from dgkit.data.plausibility import doubt

    given = None if size is None else CropRules(_parse_size(size))
    source = open_source(labels, dataset, split, encoding, _classes(taxonomy, model))
    rules, scale = _crops(source, model, given, label_scale)
    index = _index(source, scale, workers, cache)
    if (warning := doubt(source)) is not None:
        say(f"warning: {warning}")
    found = summary(index, rules)
    if as_json:
        print_json(found)
    else:
        _print_table(found)


def summary(index: ClassIndex, rules: CropRules) -> dict[str, Any]:
    """Return the totals of an index and one row per class; ``share`` is of the pixels that are not ignored."""
    from dgkit.data.crops import drawable_classes

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
        for i, name in enumerate(index.dataset.taxonomy.names)
    ]
    return {
        "dataset": index.dataset.name,
        "root": str(index.dataset.root),
        "split": index.dataset.split,
        "label_scale": index.scale,
        "files": len(index.counts),
        "pixels": total,
        "ignored_share": (total - labelled) / total,
        "crop": list(rules.shape),
        "eligible_above": rules.pixel_threshold,
        "classes": classes,
    }


def _parse_size(text: str) -> int | tuple[int, int]:
    from dgkit.errors import UsageError
    from dgkit.generation.generate_config import parse_size

    try:
        height, width = parse_size(text)
    except ValueError as error:
        raise UsageError(f"--size {text!r}: {error}", "use for example --size 512") from None
    return height if height == width else (height, width)


def _classes(taxonomy: str | None, model: str | None) -> Classes:
    """Return the taxonomy that was stated, else that of the model."""
    from dgkit.taxonomies import find_taxonomy

    if taxonomy is not None or model in (None, EMBEDDED):
        return find_taxonomy(taxonomy)
    from dgkit.diffusion.loading import open_model

    return open_model(model).info.taxonomy


def _crops(
    source: Dataset, model: str | None, rules: CropRules | None, label_scale: float | None
) -> tuple[CropRules, float]:
    """Return rules with the size of a crop, and the scale of the label maps; with a model as ``dgkit generate``.

    Without any of them, crops are those of the embedded model in pixels of the maps, which are not scaled.
    """
    from dgkit.data.crops import CropRules

    if model is None and rules is not None:
        return rules, 1.0 if label_scale is None else label_scale
    from dgkit.diffusion.loading import open_model
    from dgkit.generation.sources import chosen_scale

    info = open_model(None if model in (None, EMBEDDED) else model).info
    chosen = rules or CropRules((info.size, info.size))
    scale = chosen_scale(source, label_scale, info.defaults.label_height, chosen.shape)
    if model is None and label_scale is None:
        return CropRules(round(info.size / scale)), 1.0
    return chosen, scale


def _index(source: Dataset, scale: float, workers: int, cache: Path | None) -> ClassIndex:
    from dgkit.data.index import build_index, default_cache
    from dgkit.progress import within

    cache = cache or default_cache(source, scale)
    with progress_bars({"index": ("Reading label maps", "maps")}) as progress:
        return build_index(source, scale, workers, cache, within(progress, "index"))


def _print_table(found: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=f"{found['dataset']} ({found['split']}): {found['files']} label maps", title_justify="left")
    table.add_column("id", justify="right")
    table.add_column("class")
    for heading in ("pixels", "share", "files", f"files > {int(found['eligible_above'])} px", "sampled"):
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
    print_table(table)
    height, width = found["crop"]
    typer.echo(
        f"sampled: for crops of {width}x{height} pixels at label scale {found['label_scale']:.3g}; see --model, --size"
    )
    typer.echo(f"{found['pixels']:,} pixels, {found['ignored_share']:.2%} of them ignored")
