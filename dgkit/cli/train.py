"""``dgkit train``: training from recipes."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from dgkit.cli.common import console, print_json, say

if TYPE_CHECKING:
    from dgkit.progress import Progress

train = typer.Typer(help="Train the networks from recipes.", no_args_is_help=True)

LINE_SECONDS = 60.0  # between two lines of progress where there is no terminal
Recipe: TypeAlias = Annotated[Path, typer.Argument(help="YAML recipe with a section for this command.")]
Out: TypeAlias = Annotated[Path | None, typer.Option(help="Folder of the result; default: the recipe's.")]
Sets: TypeAlias = Annotated[
    list[str] | None, typer.Option("--set", help="One value, e.g. train.steps=100; repeatable.")
]
Threads: TypeAlias = Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all cores.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print what was made as JSON.")]


@train.command("vae")
def vae(recipe: Recipe, out: Out = None, sets: Sets = None, threads: Threads = None, as_json: Json = False) -> None:
    """Train an autoencoder on pictures; the same command again continues."""
    _run("vae", recipe, out, sets, threads, as_json)


@train.command("ldm")
def ldm(recipe: Recipe, out: Out = None, sets: Sets = None, threads: Threads = None, as_json: Json = False) -> None:
    """Fine-tune the UNet of a latent diffusion model, e.g. on the labelled source; the same command again continues.

    Several GPUs: accelerate launch -m dgkit train ldm RECIPE
    """
    _run("ldm", recipe, out, sets, threads, as_json)


@train.command("controlnet")
def controlnet(
    recipe: Recipe, out: Out = None, sets: Sets = None, threads: Threads = None, as_json: Json = False
) -> None:
    """Train a ControlNet for label maps on a frozen UNet; the same command again continues.

    Then: dgkit swap PRIOR OUT MODEL
    """
    _run("controlnet", recipe, out, sets, threads, as_json)


@train.command("city")
def city(
    work: Annotated[Path, typer.Argument(help="Folder for scenes, checkpoints and the finished model.")],
    recipe: Annotated[Path | None, typer.Option(help="YAML recipe; without it the shipped model's recipe.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="One value, e.g. unet.steps=100; repeatable.")] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Train the embedded city model from nothing; the same command again continues.

    The finished model folder is WORK/model, for `dgkit generate --model WORK/model`.
    """
    from dgkit.config import load_config
    from dgkit.training.city.city_recipe import CityRecipe

    config = load_config(CityRecipe, recipe, sets or ())
    with _training(threads) as report:
        from dgkit.training.city.stages import CityTraining

        model = CityTraining(work, config, report).run()
    _show({"kind": "city", "out": str(model), "next": f"dgkit generate OUT --model {model}"}, as_json)


@train.command("segmenter")
def segmenter(
    recipe: Annotated[Path, typer.Argument(help="Recipe, .py (mmengine config) or YAML.")],
    out: Out = None,
    sets: Sets = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Train a segmenter on labelled source and generated images; the same command again continues.

    Writes checkpoints for mmsegmentation and segmenter.onnx. Needs the extra seg.
    """
    from dgkit.training.segmenter.segmenter_recipe import load_segmenter

    config = load_segmenter(recipe, sets or (), out)
    with _training(threads) as report:
        from dgkit.training.segmenter.segmenter_training import train_segmenter

        result = train_segmenter(config, report, say)
    if int(os.environ.get("RANK", "0")) == 0:
        _show(result, as_json)


def _run(kind: str, recipe: Path, out: Path | None, sets: list[str] | None, threads: int | None, as_json: bool) -> None:
    from dgkit.training.diffusion.diffusion_recipes import load_training

    config = load_training(kind, recipe, sets or (), out)
    with _training(threads) as report:
        from dgkit.training.diffusion import commands
        from dgkit.training.loop.training_folder import main_process

        result = getattr(commands, f"train_{kind}")(config, report)
        shown = main_process()
    if shown:
        _show(result, as_json)


def _show(result: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    console().print(f"{result['out']}: written", markup=False)
    console().print(f"next: {result['next']}", markup=False)


@contextmanager
def _training(threads: int | None) -> Iterator["Progress"]:
    """Progress, the number of threads, and what to do after Ctrl-C."""
    import diffusers
    import torch
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    if threads:
        torch.set_num_threads(threads)
    try:
        with _bars() as report:
            yield report
    except KeyboardInterrupt:
        console().print("the same command continues from the last checkpoint", markup=False)
        raise


@contextmanager
def _bars() -> Iterator["Progress"]:
    """One bar a stage on a terminal, else a line a minute and stage; yields ``report(stage, done, total, note)``."""
    from rich import progress

    shown = console()
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[note]}"),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=shown, disable=not shown.is_terminal) as bars:
        tasks: dict[str, progress.TaskID] = {}
        printed: dict[str, float] = {}

        def report(stage: str, done: float, total: float, note: str = "") -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, note=note)
            bars.update(tasks[stage], completed=done, total=total, note=note)
            now = time.monotonic()
            if not shown.is_terminal and (done == total or now - printed.get(stage, 0.0) > LINE_SECONDS):
                printed[stage] = now
                shown.print(f"{stage} {done}/{total} {note}", markup=False)

        yield report
