"""``dgkit train judge``: the networks that ``dgkit quality`` measures with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dgkit.cli.common import console, print_json, progress_bars


def judge(
    work: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for scenes, checkpoints and the judge.")],
    recipe: Annotated[Path | None, typer.Option(help="YAML recipe; by default training/judge.yaml's values.")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="One value, e.g. segmenter.steps=100; repeatable.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all cores.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures on unseen scenes as JSON.")] = False,
) -> None:
    """Train the judge of dgkit quality on rendered scenes; the same command again continues.

    DIR then holds segmenter.onnx, styles.onnx and judge.json, for `dgkit quality OUT --judge DIR`.
    """
    from dgkit.config import load_config
    from dgkit.training.judge.judge_recipe import JudgeRecipe

    config = load_config(JudgeRecipe, recipe, sets or ())
    import torch

    from dgkit.training.judge.judge_training import JudgeTraining

    if threads:
        torch.set_num_threads(threads)
    with progress_bars(_stages()) as report:
        found = JudgeTraining(work, config, lambda stage, done, total, note="": report(stage, done, total)).run()
    if as_json:
        print_json(found)
    else:
        _report(found)
        console().print(f"next: dgkit quality OUT --judge {work}", markup=False)


def _stages() -> dict[str, tuple[str, str]]:
    from dgkit.world import ROLES

    scenes = {f"scenes/{role}{part}": (f"Drawing {role}", "scenes") for role in ROLES for part in ("1", "2", "-unseen")}
    return {**scenes, "segmenter": ("Training the segmenter", "steps"), "styles": ("Training the styles", "steps")}


def _report(found: dict[str, Any]) -> None:
    for role, scores in found["segmenter"].items():
        small = scores["small_miou"]
        text = f"{role}: mIoU {scores['miou']:.1%}" + ("" if small is None else f", small classes {small:.1%}")
        console().print(f"unseen {text}", markup=False)
    if "styles" in found:
        console().print(f"styles of unseen scenes: {found['styles']['accuracy']:.1%} right", markup=False)
