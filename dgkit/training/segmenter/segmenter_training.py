"""``dgkit train segmenter``: a segmenter from source and generated images."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from dgkit.errors import UsageError
from dgkit.files import atomic_write
from dgkit.progress import Progress
from dgkit.training.loop.training_folder import main_process, open_training_folder
from dgkit.training.segmenter.hooks import FrozenEncoder, LoadEncoder, Report
from dgkit.training.segmenter.mm import MMConfig, Runner
from dgkit.training.segmenter.networks import build_network, keep_from_console, known_warnings
from dgkit.training.segmenter.runner_config import runner_config
from dgkit.training.segmenter.segmenter_export import export_segmenter, load_checkpoint
from dgkit.training.segmenter.segmenter_recipe import SegmenterRecipe

Say = Callable[[str], None]

# May change between two runs of one training: nothing of it reaches the weights. Where pretrained does, with the
# feature distance, the weights that it names are compared.
_FREE = frozenset(
    [
        *("out", "export", "pretrained"),
        *("data.workers", "data.verify", "data.val", "data.cache"),
        *("train.checkpoint_every", "train.keep", "train.validate_every"),
    ]
)


def train_segmenter(
    recipe: SegmenterRecipe, progress: Progress | None = None, say: Say | None = None
) -> Mapping[str, Any]:
    """Train what ``recipe`` describes, or go on where a run of it in ``recipe.out`` stopped.

    Writes to ``out``: ``config.yaml`` (the recipe), ``config.py`` (for mmsegmentation), checkpoints, TensorBoard files,
    ``metrics.json``, and ``segmenter.onnx`` with its side-car. Returns what was made. ``say`` is told what a user
    should know, such as random weights. Raises UsageError where ``out`` holds a run of another recipe, OutputError,
    InputError, ModelError, EngineError, MissingDependency.
    """
    if recipe.train.precision == "fp16" and not torch.cuda.is_available():
        raise UsageError("train.precision=fp16 needs a GPU", "use train.precision=bf16 or fp32")
    out = open_training_folder(recipe.out, recipe, _FREE)
    resumed = find_checkpoint(out)
    report = Report(progress)
    with contextlib.redirect_stdout(sys.stderr):  # mmengine prints here and there; stdout is for results
        runner = _build_runner(recipe, out, resumed)
        _tell(say, recipe, resumed)
        if recipe.pretrained:
            runner.register_hook(LoadEncoder(recipe.pretrained))
        if recipe.pretrained and recipe.feature_distance:
            runner.register_hook(FrozenEncoder(recipe.pretrained))
        runner.register_hook(report)
        runner.train()
    return _finish(recipe, out, report)


def find_checkpoint(out: Path) -> Path | None:
    """The last complete checkpoint of a training in ``out``; mmengine names it in a file when it is written."""
    named = out / "last_checkpoint"
    path = out / Path(named.read_text(encoding="utf-8").strip()).name if named.exists() else None
    return path if path and path.exists() else None


def _build_runner(recipe: SegmenterRecipe, out: Path, resumed: Path | None) -> Any:
    config = runner_config(recipe, out)
    config |= {"resume": resumed is not None, "load_from": resumed and str(resumed)}
    config["launcher"] = "pytorch" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "none"
    # The Runner writes its config to the output folder under the file name given here.
    settings = MMConfig(config, cfg_text="# dgkit train segmenter", filename=str(out / "config.py"))
    with known_warnings():
        runner = Runner.from_cfg(settings)
    keep_from_console(runner.logger)
    return runner


def _tell(say: Say | None, recipe: SegmenterRecipe, resumed: Path | None) -> None:
    if say is None or not main_process():
        return
    if resumed:
        say(f"goes on from {resumed}")
    elif not recipe.pretrained:
        say(f"no pretrained weights are stated: {recipe.backbone} starts from random ones; see 'pretrained'")
    if not recipe.data.generated:
        say("no generated images are stated: training on the source set alone")


def _finish(recipe: SegmenterRecipe, out: Path, report: Report) -> Mapping[str, Any]:
    checkpoint = find_checkpoint(out)
    assert checkpoint  # the last iteration leaves one
    metrics = out / "metrics.json"
    figures = json.loads(metrics.read_text(encoding="utf-8")) if metrics.exists() else {"miou": []}
    known = {step: value for step, value in figures["miou"]} | dict(report.miou)
    loss = report.loss if report.loss == report.loss else figures.get("loss")
    if main_process():
        figures = {"loss": loss, "miou": sorted(known.items())}
        atomic_write(metrics, (json.dumps(figures, indent=2) + "\n").encode())
    best = max(out.glob("best_mIoU_iter_*.pth"), key=lambda path: int(path.stem.rpartition("_")[2]), default=None)
    onnx = out / "segmenter.onnx"
    if recipe.export and main_process():
        network = build_network(runner_config(recipe, out)["model"])
        load_checkpoint(network, checkpoint)
        export_segmenter(network, onnx, recipe.data.crop)
    return {
        "kind": "segmenter",
        "out": str(out),
        "steps": recipe.train.steps,
        "loss": loss,
        "checkpoint": str(checkpoint),
        "best": None if best is None else str(best),
        "onnx": str(onnx) if recipe.export else None,
        "next": f"dgkit eval {onnx} --on NAME=DIR" if recipe.export else f"tensorboard --logdir {out}",
    }
