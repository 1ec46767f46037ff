"""``dgkit generate``: label maps in, labelled street scenes in any weather out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgkit.cli.common import INTERRUPTED, Report, console, print_json, progress_bars, say
from dgkit.cli.pack import pack_with_bars

if TYPE_CHECKING:
    from dgkit.generation.result import GenerateResult

STAGES = {"index": ("Reading label maps", "maps"), "generate": ("Generating", "images"),
          "measure": ("Measuring", "scenes"), "filter": ("Filtering", "labels"),
          "card": ("Counting classes", "labels")}  # fmt: skip
SOURCE, MODEL, SCENES, QUALITY, RUN = "Label maps", "Model", "Scenes", "Only good scenes", "Run"


def _option(names: str, text: str, panel: str, metavar: str | None = None) -> Any:
    return typer.Option(*names.split(), help=text, rich_help_panel=panel, metavar=metavar, show_default=False)


def generate(
    out: Annotated[Path, typer.Argument(help="Folder to fill; the same command again continues it.", metavar="OUT")],
    labels: Annotated[
        Path | None, _option("--labels", "Folder of label maps: PNG files of train ids.", SOURCE, "DIR")
    ] = None,
    dataset: Annotated[
        str | None, _option("--dataset", "A labelled data set: gta, synthia, cityscapes, ...", SOURCE, "NAME=DIR")
    ] = None,
    world: Annotated[
        int | None, _option("--world", "Scenes of the procedural city; the source if none is given.", SOURCE, "N")
    ] = None,
    encoding: Annotated[
        str | None, _option("--encoding", "Id system of the label maps, such as cityscapes_ids.", SOURCE, "E")
    ] = None,
    split: Annotated[
        str | None, _option("--split", "Split of the data set: train, val, test, all.", SOURCE, "S")
    ] = None,
    label_scale: Annotated[
        float | None,
        _option("--label-scale", "Factor on the label maps; by default the one the model was made for.", SOURCE, "F"),
    ] = None,
    rare: Annotated[
        bool | None, _option("--rare/--no-rare", "Rare class sampling of the crops (default: on).", SOURCE)
    ] = None,
    model: Annotated[
        str | None, _option("--model", "Diffusers model folder or hub id; by default the embedded model.", MODEL, "M")
    ] = None,
    controlnet: Annotated[
        str | None, _option("--controlnet", "ControlNet folder or hub id; by default that of the model.", MODEL, "C")
    ] = None,
    engine: Annotated[
        str | None, _option("--engine", "torch (default), compile, ort, openvino or trt.", MODEL, "ENGINE")
    ] = None,
    dtype: Annotated[str | None, _option("--dtype", "Number format: fp32, bf16, fp16 or int8.", MODEL, "D")] = None,
    device: Annotated[str | None, _option("--device", "auto, cpu, cuda or cuda:N.", MODEL, "D")] = None,
    engine_recipe: Annotated[
        Path | None, _option("--engine-recipe", "Recipe of build-engines instead of engine and dtype.", MODEL, "FILE")
    ] = None,
    cuda_graph: Annotated[
        bool | None,
        _option("--cuda-graph/--no-cuda-graph", "CUDA graphs where the engine offers them (default: on).", MODEL),
    ] = None,
    rebuild: Annotated[
        str | None, _option("--rebuild", "Engines: never, auto (default: as needed) or always.", MODEL, "POLICY")
    ] = None,
    count: Annotated[int | None, _option("--count", "Images to have in OUT at the end.", SCENES, "N")] = None,
    preset: Annotated[
        str | None, _option("--preset", "Sampler preset: exact, fast, turbo, one-pass or official.", SCENES, "P")
    ] = None,
    style_mix: Annotated[
        str | None,
        _option("--style-mix", "code, released, uniform, one style, or a YAML file of weights.", SCENES, "MIX"),
    ] = None,
    balance_classes: Annotated[
        bool | None, _option("--balance-classes", "Draw the classes that the scenes so far lack.", SCENES)
    ] = None,
    balance_styles: Annotated[
        bool | None, _option("--balance-styles", "Spread the styles over the scenes of each class.", SCENES)
    ] = None,
    size: Annotated[
        str | None, _option("--size", "Pixels: S or HEIGHTxWIDTH; by default the model's own.", SCENES, "S")
    ] = None,
    seed: Annotated[int | None, _option("--seed", "Everything random follows from it.", SCENES, "S")] = None,
    judge: Annotated[
        Path | None,
        _option("--judge", "Segmenter that scores each image; second labels as dgkit filter.", QUALITY, "ONNX"),
    ] = None,
    min_agreement: Annotated[
        float | None,
        _option("--min-agreement", "Redraw images of which the judge sees less as labelled, 0 to 1.", QUALITY, "SHARE"),
    ] = None,
    redraws: Annotated[
        int | None, _option("--redraws", "Redraw an image at most so often; the best is kept (3).", QUALITY, "N")
    ] = None,
    boundary: Annotated[
        int | None, _option("--boundary", "Band ignored beside other classes in second labels, 0 to 8.", QUALITY, "PX")
    ] = None,
    duplicates: Annotated[
        int | None, _option("--duplicates", "Second labels without near-duplicates, see filter.", QUALITY, "BITS")
    ] = None,
    batch: Annotated[
        int | None, _option("--batch", "Denoiser samples per network call; the memory follows it.", RUN, "B")
    ] = None,
    workers: Annotated[
        str | None,
        _option("--workers", "Processes that make images; auto: one a GPU, or the best split of a CPU.", RUN, "N"),
    ] = None,
    shard: Annotated[
        str | None, _option("--shard", "Only the I-th of N parts of the images, for dgkit merge.", RUN, "I/N")
    ] = None,
    ray: Annotated[
        str | None, _option("--ray", "Make the images on a Ray cluster: ADDRESS, auto or local.", RUN, "ADDRESS")
    ] = None,
    recipe: Annotated[
        Path | None, _option("--recipe", "YAML file of settings, such as a config.yaml of OUT.", RUN, "FILE")
    ] = None,
    assignments: Annotated[
        list[str] | None, _option("--set", "Any other setting, such as steps=30; repeatable.", RUN, "KEY=VALUE")
    ] = None,
    format: Annotated[
        str | None,
        _option("--format", "Also pack OUT: webdataset or parquet, into OUT/FORMAT; folder packs nothing.", RUN, "F"),
    ] = None,
    as_json: Annotated[bool, _option("--json", "Print a summary of the run as JSON on stdout.", RUN)] = False,
) -> None:
    """Make labelled street scenes from label maps.

    Images, labels, a manifest, a dataset card and a contact sheet are written to OUT. Settings: RECIPE < --set < flags.
    """
    settings = {
        "labels": labels, "dataset": dataset, "world": world, "encoding": encoding, "split": split,
        "label_scale": label_scale, "rare": rare, "model": model, "controlnet": controlnet, "engine": engine,
        "dtype": dtype, "device": device, "engine_recipe": engine_recipe, "cuda_graph": cuda_graph,
        "rebuild": rebuild,
        "count": count, "preset": preset, "style_mix": style_mix, "size": size, "seed": seed, "batch": batch,
        "balance_classes": balance_classes, "balance_styles": balance_styles, "judge": judge,
        "min_agreement": min_agreement, "redraws": redraws, "boundary": boundary,
        "duplicates": duplicates,
        "workers": workers, "shard": shard, "ray": ray,
    }  # fmt: skip
    from dgkit.config import load_config
    from dgkit.generation.generate_config import GenerateConfig

    config = load_config(GenerateConfig, recipe, assignments or (), **settings)
    if format is not None:
        from dgkit.outputs.packing import check_format

        check_format(format)  # before the images are made
    from dgkit.generation.run import generate as run

    try:
        with progress_bars(STAGES) as progress:
            result = run(out, config, progress=progress, notify=say)
            _describe(result, progress)
    except KeyboardInterrupt:
        state = f"finished images are in {out}, " if out.is_dir() else ""
        console().print(f"\nstopped; {state}the same command continues", markup=False)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(result.to_json())
    else:
        _report(result)
    if format not in (None, "folder"):
        pack_with_bars(out, out / format, format)


def _describe(result: GenerateResult, progress: Report) -> None:
    """The dataset card beside the images, and what other programs need to read them."""
    from dgkit.outputs.card import write_card

    write_card(
        result.out, source_pixels=result.source_pixels, progress=lambda done, total: progress("card", done, total)
    )


def _report(result: GenerateResult) -> None:
    names = {"none": "without style"}
    styles = ", ".join(f"{count} {names.get(style, style)}" for style, count in result.styles.items())
    shown = console()
    shown.print(f"{len(result.records)} labelled scenes in {result.out} ({styles})", markup=False)
    if result.written:
        made = f"{result.written} made in {result.seconds:.0f} s, {result.images_per_hour:,.0f} images/hour"
        shown.print(f"{made}, {result.continued} were there", markup=False)
    else:
        shown.print("all of them were there already", markup=False)
    for count, text in (
        (sum(record.retried for record in result.records), "computed again in fp32, the first result was not finite"),
        (sum(not record.rule_met for record in result.records), "with less of the drawn class than asked for"),
        (sum(len(record.attempts) > 1 for record in result.records), "drawn more than once"),
        (sum(not record.accepted for record in result.records), "below the agreement asked for"),
    ):
        if count:
            shown.print(f"{count} {text}", markup=False)
    shown.print(f"contact sheet: {result.contact_sheet}", markup=False)
