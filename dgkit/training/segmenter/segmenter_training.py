"""``dgkit train segmenter``: trains a segmenter on source and generated images."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from dgkit.errors import UsageError
from dgkit.files import atomic_write, json_bytes
from dgkit.progress import Notify, Progress
from dgkit.training.loop.training_folder import main_process, open_training_folder
from dgkit.training.segmenter.hooks import FrozenEncoder, LoadEncoder, ProgressHook
from dgkit.training.segmenter.mm import MMConfig, Runner
from dgkit.training.segmenter.networks import build_network, keep_from_console, known_warnings
from dgkit.training.segmenter.runner_config import runner_config
from dgkit.training.segmenter.segmenter_export import export_segmenter, load_checkpoint
from dgkit.training.segmenter.segmenter_recipe import SegmenterRecipe

# Keys that may change when a training resumes, because they do not affect the weights. With the feature distance,
# pretrained does: the hook compares the weights themselves.
_FREE = frozenset(
    [
        *("out", "export", "pretrained"),
        *("data.workers", "data.verify", "data.val", "data.cache"),
        *("train.checkpoint_every", "train.keep", "train.validate_every"),
    ]
)


def train_segmenter(
    recipe: SegmenterRecipe, progress: Progress | None = None, notify: Notify | None = None
) -> Mapping[str, Any]:
    """Train the segmenter of ``recipe``, or resume its training in ``recipe.out``.

    Writes to ``out``: ``config.yaml`` (the recipe), ``config.py`` (for mmsegmentation), checkpoints, TensorBoard files,
    ``metrics.json``, and ``segmenter.onnx`` with its side-car. Returns a summary of the result. ``notify`` gets
    warnings such as random initial weights. Raises UsageError if ``out`` holds a run of another recipe, OutputError,
    InputError, ModelError, EngineError, MissingDependency.
    """
    if recipe.train.precision == "fp16" and not torch.cuda.is_available():
        raise UsageError("train.precision=fp16 needs a GPU", "use --set train.precision=bf16, or fp32")
    out = open_training_folder(recipe.out, recipe, _FREE)
    resumed = find_checkpoint(out)
    hook = ProgressHook(progress)
    with contextlib.redirect_stdout(sys.stderr):  # mmengine prints to stdout, which is for results
        runner = _build_runner(recipe, out, resumed)
        if notify and main_process():
            for line in _notices(recipe, resumed):
                notify(line)
        if recipe.pretrained:
            runner.register_hook(LoadEncoder(recipe.pretrained))
        if recipe.pretrained and recipe.feature_distance:
            runner.register_hook(FrozenEncoder(recipe.pretrained))
        runner.register_hook(hook)
        runner.train()
    return _finish(recipe, out, hook)


def find_checkpoint(out: Path) -> Path | None:
    """Return the last complete checkpoint in ``out``, named in a file that mmengine writes after it."""
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


def _notices(recipe: SegmenterRecipe, resumed: Path | None) -> Iterator[str]:
    if resumed:
        yield f"resuming from {resumed}"
    elif not recipe.pretrained:
        yield f"{recipe.backbone} starts from random weights; set 'pretrained' to use pretrained ones"
    if not recipe.data.generated:
        yield "no generated images: training on the source set alone"


def _finish(recipe: SegmenterRecipe, out: Path, hook: ProgressHook) -> Mapping[str, Any]:
    checkpoint = find_checkpoint(out)
    assert checkpoint  # written by the last iteration
    metrics = out / "metrics.json"
    figures = json.loads(metrics.read_text(encoding="utf-8")) if metrics.exists() else {"miou": []}
    known = dict(figures["miou"]) | dict(hook.miou)
    loss = hook.loss if hook.loss == hook.loss else figures.get("loss")
    if main_process():
        figures = {"loss": loss, "miou": sorted(known.items())}
        atomic_write(metrics, json_bytes(figures))
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
