"""``dgkit train``: training from recipes."""

from pathlib import Path
from typing import Annotated

import typer

from dgkit.cli.common import console

train = typer.Typer(help="Train the networks from recipes.", no_args_is_help=True)


@train.command("city")
def city(
    work: Annotated[Path, typer.Argument(help="Folder for scenes, checkpoints and the finished model.")],
    recipe: Annotated[Path | None, typer.Option(help="YAML recipe; without it the shipped model's recipe.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="One value, e.g. unet.steps=100; repeatable.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all cores.")] = None,
) -> None:
    """Train the embedded city model from nothing; the same command again continues.

    The finished model folder is WORK/model, for `dgkit generate --model WORK/model`.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from dgkit.config import load_config
    from dgkit.training.recipe import CityRecipe

    config = load_config(CityRecipe, recipe, sets or ())
    import torch

    from dgkit.training.city import CityTraining

    if threads:
        torch.set_num_threads(threads)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console(),
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int, loss: float) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, loss=loss)
            bars.update(tasks[stage], completed=done, loss=loss)

        model = CityTraining(work, config, report).run()
    console().print(f"model: {model}", markup=False)
