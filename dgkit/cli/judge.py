"""``dgkit train judge``: train the networks that ``dgkit quality`` measures with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dgkit.cli.common import inform, interruptible, print_json, progress_bars, say
from dgkit.cli.options import Json, Threads, option, settings
from dgkit.cli.train import RESUME


def judge(
    work: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for scenes, checkpoints and the judge")],
    recipe: Annotated[Path | None, option("FILE", "YAML recipe; default: that of training/judge.yaml")] = None,
    real: Annotated[
        str | None, option("NAME=DIR", "Photographs to train on instead of the city, e.g. camvid=DIR")
    ] = None,
    sets: Annotated[list[str] | None, settings("segmenter.steps=100")] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Train the judge of dgkit quality on rendered scenes or photographs; the same command resumes.

    DIR then holds segmenter.onnx, styles.onnx and judge.json, for `dgkit quality OUT --judge DIR`. With --real there is
    no style classifier, and the extra imagenet is needed.
    """
    from dgkit.config import load_config
    from dgkit.training.judge.judge_recipe import JudgeRecipe, ReaderRecipe

    config = load_config(JudgeRecipe if real is None else ReaderRecipe, recipe, sets or (), real=real)
    import torch

    from dgkit.training.judge.judge_training import JudgeTraining

    if threads:
        torch.set_num_threads(threads)
    with interruptible(RESUME), progress_bars(_stages()) as report:
        found = JudgeTraining(work, config, report, inform).run()
    if as_json:
        print_json(found)
    else:
        _report(found)
        say(f"next: dgkit quality OUT --judge {work}")


def _stages() -> dict[str, tuple[str, str]]:
    from dgkit.world import ROLES

    scenes = {f"scenes/{role}{part}": (f"Drawing {role}", "scenes") for role in ROLES for part in ("1", "2", "-unseen")}
    return {
        **scenes,
        "segmenter": ("Training the segmenter", "steps"),
        "styles": ("Training the style classifier", "steps"),
    }


def _report(found: dict[str, Any]) -> None:
    for role, scores in found["segmenter"].items():
        small = scores["small_miou"]
        text = f"{role}: mIoU {scores['miou']:.1%}" + ("" if small is None else f", small classes {small:.1%}")
        say(f"unseen {text}")
    if "styles" in found:
        say(f"styles of unseen scenes: {found['styles']['accuracy']:.1%} correct")
