"""``dgkit generate``: label maps in, labelled street scenes in any weather out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgkit.cli.common import inform, interruptible, print_json, progress_bars, say, warn_of_weak_segmenter
from dgkit.cli.options import Json, option, options_of, recipe_file, settings
from dgkit.cli.pack import pack_with_bars
from dgkit.texts import count_of

if TYPE_CHECKING:
    from dgkit.generation.generate_config import GenerateConfig
    from dgkit.generation.result import GenerateResult
    from dgkit.progress import Progress

STAGES = {"city": ("Drawing label maps", "maps"), "index": ("Reading label maps", "maps"),
          "generate": ("Generating", "images"), "measure": ("Measuring", "scenes"), "filter": ("Filtering", "labels"),
          "card": ("Counting classes", "labels")}  # fmt: skip
PANELS = {
    "Label maps": "labels jobs dataset world encoding split taxonomy label_scale rare",
    "Model": "model controlnet lora engine dtype device engine_recipe cuda_graph rebuild",
    "Scenes": "count preset size seed balance_classes balance_styles preview",
    "Words": "style_mix styles prompt_template class_words class_limit negative_prompt",
    "Label quality": "judge min_agreement redraws boundary duplicates",
    "Run": "batch workers shard ray recipe sets format as_json",
}


@options_of("dgkit.generation.generate_config:GenerateConfig", PANELS)
def generate(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder; the same command resumes it")],
    flags: dict[str, Any],
    recipe: Annotated[Path | None, recipe_file("OUT/config.yaml")] = None,
    sets: Annotated[list[str] | None, settings("steps=30")] = None,
    format: Annotated[str | None, option("F", "Also pack into OUT/FORMAT: webdataset or parquet")] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Only write OUT/preview.png: 3 label maps in every style")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make labelled street scenes from label maps.

    Writes images, labels, a manifest, a dataset card and a contact sheet to OUT. Flags override --set,
    which overrides RECIPE.
    """
    from dgkit.config import load_config
    from dgkit.generation.generate_config import GenerateConfig

    config = load_config(GenerateConfig, recipe, sets or (), **flags)
    if preview:
        _preview(out, config, format, as_json)
        return
    if format is not None:
        from dgkit.errors import UsageError
        from dgkit.outputs.packing import check_format

        if format == "folder":
            raise UsageError(
                f"--format folder: {out} holds images, labels and metadata.jsonl anyway",
                f"omit --format, or make a copy with dgkit pack {out} DEST --format folder",
            )

        check_format(format)  # before the images are made
    from dgkit.generation.run import generate as run

    with interruptible(f"run the same command again to resume {out}"), progress_bars(STAGES) as progress:
        result = run(out, config, progress=progress, notify=inform)
        _describe(result, progress)
    warn_of_weak_segmenter(result.mean_agreement, "images chosen by it show their labels no better", "--judge")
    if as_json:
        print_json(result.to_json())
    else:
        _report(result)
    if format is not None:
        pack_with_bars(out, out / format, format)


def _preview(out: Path, config: GenerateConfig, format: str | None, as_json: bool) -> None:
    """Write the preview of a run and say how to start the run."""
    from dgkit.generation.preview import preview

    if format is not None:
        from dgkit.errors import UsageError

        raise UsageError("--preview and --format cannot be combined: a preview is one picture", "drop --format")
    with interruptible("run the same command again for the preview"), progress_bars(STAGES) as progress:
        result = preview(out, config, progress=progress, notify=inform)
    if as_json:
        print_json(result.to_json())
    shown = f"{count_of(result.labels, 'label map')} in {count_of(len(result.styles), 'style')}"
    say(f"preview: {result.path} ({shown}); omit --preview to make the {count_of(result.count, 'scene')}")


def _describe(result: GenerateResult, progress: Progress) -> None:
    """Write the dataset card next to the images, and the files that other programs read."""
    from dgkit.outputs.card import write_card
    from dgkit.progress import within

    write_card(result.out, source_pixels=result.source_pixels, progress=within(progress, "card"))


def _report(result: GenerateResult) -> None:
    names = {"none": "without style"}
    styles = ", ".join(f"{count} {names.get(style, style)}" for style, count in result.styles.items())
    say(f"{count_of(len(result.records), 'labelled scene')} in {result.out} ({styles})")
    if result.written:
        seconds = result.seconds - result.build_seconds
        made = f"{result.written} made in {seconds:.0f} s, {result.images_per_hour:,.0f} images/hour"
        built = f"; building engines took {result.build_seconds:.0f} s more" if result.build_seconds >= 1 else ""
        say(f"{made}, {result.continued} already present{built}")
    else:
        say("all were already present")
    for count, text in (
        (sum(record.retried for record in result.records), "recomputed in fp32: the first result was not finite"),
        (sum(not record.rule_met for record in result.records), "with less of the sampled class than requested"),
        (sum(len(record.attempts) > 1 for record in result.records), "redrawn at least once"),
        (sum(not record.accepted for record in result.records), "below the requested label agreement"),
    ):
        if count:
            say(f"{count} {text}")
    say(f"contact sheet: {result.contact_sheet}")
