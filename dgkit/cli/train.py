"""``dgkit train``: train the networks from recipes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from dgkit.cli.common import inform, interruptible, print_json, progress_bars, say
from dgkit.cli.options import Json, Threads, option, settings

if TYPE_CHECKING:
    from dgkit.progress import Progress

STAGES = {
    "vae": ("Training the autoencoder", "steps"),
    "ldm": ("Training the UNet", "steps"),
    "unet": ("Training the UNet", "steps"),
    "controlnet": ("Training the ControlNet", "steps"),
    "decoder": ("Training the decoder", "steps"),
    "reward": ("Tuning the ControlNet by the reward", "steps"),
    "segmenter": ("Training the segmenter", "steps"),
    "latents": ("Encoding images", "crops"),
}
RESUME = "run the same command again to resume from the last checkpoint"

train = typer.Typer(help="Train the networks from recipes.", no_args_is_help=True)

Recipe: TypeAlias = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="YAML recipe with a section for this command")
]
Out: TypeAlias = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Output folder; default: the recipe's")
]
Sets: TypeAlias = Annotated[list[str] | None, settings("train.steps=100")]


@train.command("vae")
def vae(recipe: Recipe, out: Out = None, sets: Sets = None, threads: Threads = None, as_json: Json = False) -> None:
    """Train an autoencoder on images; the same command resumes."""
    _run("vae", recipe, out, sets, threads, as_json)


@train.command("ldm")
def ldm(recipe: Recipe, out: Out = None, sets: Sets = None, threads: Threads = None, as_json: Json = False) -> None:
    """Fine-tune the UNet of a latent diffusion model, e.g. on the labelled source; the same command resumes.

    Several GPUs: accelerate launch -m dgkit train ldm RECIPE
    """
    _run("ldm", recipe, out, sets, threads, as_json)


@train.command("controlnet")
def controlnet(
    recipe: Recipe, out: Out = None, sets: Sets = None, threads: Threads = None, as_json: Json = False
) -> None:
    """Train a ControlNet for label maps on a frozen UNet; the same command resumes.

    Next: dgkit swap PRIOR OUT MODEL
    """
    _run("controlnet", recipe, out, sets, threads, as_json)


@train.command("city")
def city(
    work: Annotated[Path, typer.Argument(metavar="WORK", help="Folder for scenes, checkpoints and the model")],
    recipe: Annotated[Path | None, option("FILE", "YAML recipe; default: that of the embedded model")] = None,
    sets: Annotated[list[str] | None, settings("unet.steps=100")] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Train the embedded city model from scratch; the same command resumes.

    The finished model folder is WORK/model, for `dgkit generate OUT --model WORK/model`.
    """
    from dgkit.config import load_config
    from dgkit.training.city.city_recipe import CityRecipe

    config = load_config(CityRecipe, recipe, sets or ())
    with _training(threads) as progress:
        from dgkit.training.city.stages import CityTraining

        training = CityTraining(work, config, progress, inform)
        finished = training.finished()
        model = training.run()
    following = f"dgkit generate OUT --model {model}"
    _show({"kind": "city", "out": str(model), "next": following, "finished": finished}, as_json)


@train.command("segmenter")
def segmenter(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML recipe or mmengine config (.py)")],
    out: Out = None,
    sets: Sets = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Train a segmenter on labelled source and generated images; the same command resumes.

    Writes checkpoints for mmsegmentation, and segmenter.onnx. Needs the extra seg.
    """
    from dgkit.training.loop.training_folder import main_process
    from dgkit.training.segmenter.segmenter_recipe import load_segmenter

    config = load_segmenter(recipe, sets or (), out)
    with _training(threads) as progress:
        from dgkit.training.segmenter.segmenter_training import train_segmenter

        result = train_segmenter(config, progress, inform)
    if main_process():
        _show(result, as_json)


def _run(kind: str, recipe: Path, out: Path | None, sets: list[str] | None, threads: int | None, as_json: bool) -> None:
    from dgkit.training.diffusion.diffusion_recipes import load_training

    config = load_training(kind, recipe, sets or (), out)
    with _training(threads) as progress:
        from dgkit.training.diffusion.commands import COMMANDS
        from dgkit.training.loop.training_folder import main_process

        result = COMMANDS[kind](config, progress, inform)
    if main_process():
        _show(result, as_json)


def _show(result: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    say(f"{result['out']}: {'finished already' if result.get('finished') else 'written'}")
    say(f"next: {result['next']}")


@contextmanager
def _training(threads: int | None) -> Iterator[Progress]:
    """Set the number of threads, show progress, and explain after Ctrl-C how to resume."""
    import diffusers
    import torch
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    if threads:
        torch.set_num_threads(threads)
    with interruptible(RESUME), progress_bars(STAGES) as progress:
        yield progress
