"""``dgkit train segmenter``: trains a segmenter on source and generated images."""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from dgkit.errors import InputError, UsageError
from dgkit.files import atomic_write, json_bytes
from dgkit.progress import Notify, Progress
from dgkit.training.data.labelled import select_pairs
from dgkit.training.loop.integrity import find_result, read_object, record_result
from dgkit.training.loop.training_folder import (
    check_training_folder,
    main_process,
    remove_stale,
    sole_training,
    write_recipe,
)
from dgkit.training.segmenter.checkpoints import SafeRunner, best_checkpoint, find_checkpoint, list_checkpoints
from dgkit.training.segmenter.encoder_weights import initial_weights, load_encoder
from dgkit.training.segmenter.hooks import FiguresHook, FrozenEncoder, LoadEncoder, MissedValidation, ProgressHook
from dgkit.training.segmenter.mixture import find_generated
from dgkit.training.segmenter.mm import CheckpointHook, MMConfig
from dgkit.training.segmenter.networks import build_network, keep_from_console, known_warnings
from dgkit.training.segmenter.runner_config import runner_config
from dgkit.training.segmenter.segmenter_export import export_segmenter, load_checkpoint
from dgkit.training.segmenter.segmenter_recipe import SegmenterRecipe
from dgkit.training.segmenter.source_sampling import open_source

RESULT = "result.json"
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

    Writes to ``out``: ``config.yaml`` (the recipe), ``config.py`` (for mmsegmentation), checkpoints and their digests,
    TensorBoard files, ``metrics.json``, ``segmenter.onnx`` with its side-car, and last ``result.json`` with the digests
    of all these. Of a finished training nothing is computed. Returns a summary of the result. ``notify`` gets warnings
    such as random initial weights. Raises UsageError if ``out`` holds a run of another recipe, OutputError (also if
    another training runs in ``out``), InputError, ModelError, EngineError, MissingDependency.
    """
    if recipe.train.precision == "fp16" and not torch.cuda.is_available():
        raise UsageError("train.precision=fp16 needs a GPU", "use --set train.precision=bf16, or fp32")
    out = check_training_folder(recipe.out, recipe, _FREE)
    with sole_training(out):
        check_training_folder(out, recipe, _FREE)
        damage = find_result(out / RESULT, out, **_facts(recipe))
        if damage and notify and main_process():
            notify(f"the result in {out} is damaged and is written again: {damage}")
        if damage != "":
            _train(recipe, out, progress, notify)
        return _summary(recipe, out, finished=damage == "")


def _train(recipe: SegmenterRecipe, out: Path, progress: Progress | None, notify: Notify | None) -> None:
    resumed = find_checkpoint(out)
    figures = FiguresHook(earlier=lambda: _read_metrics(out))
    _check_inputs(recipe)
    write_recipe(out, recipe)
    if main_process():
        (out / RESULT).unlink(missing_ok=True)
        remove_stale(out)
    with contextlib.redirect_stdout(sys.stderr):  # mmengine prints to stdout, which is for results
        runner = _build_runner(recipe, out, resumed)
        if notify and main_process():
            for line in _notices(recipe, resumed):
                notify(line)
        if weights := initial_weights(recipe):
            runner.register_hook(LoadEncoder(weights))
        if weights and recipe.feature_distance:
            runner.register_hook(FrozenEncoder(weights))
        for hook in (figures, MissedValidation(figures), ProgressHook(figures, progress)):
            runner.register_hook(hook)
        runner.train()
    if main_process():
        _finish(recipe, out, figures)


def _check_inputs(recipe: SegmenterRecipe) -> None:
    """Read what a training starts from, so that a mistake in the recipe shows before the first file is written."""
    network = build_network(runner_config(recipe, Path())["model"])
    if weights := initial_weights(recipe):
        load_encoder(network.backbone, weights)
    open_source(recipe.data)
    for folder in recipe.data.generated:
        find_generated(folder, verify=False, filtered=recipe.data.filtered, taxonomy=recipe.data.classes)
    if recipe.data.val:
        select_pairs(recipe.data.val.open(recipe.data.classes))


def _build_runner(recipe: SegmenterRecipe, out: Path, resumed: Path | None) -> Any:
    config = runner_config(recipe, out)
    config |= {"resume": resumed is not None, "load_from": resumed and str(resumed)}
    config["launcher"] = "pytorch" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "none"
    # The Runner writes its config to the output folder under the file name given here.
    settings = MMConfig(config, cfg_text="# dgkit train segmenter", filename=str(out / "config.py"))
    with known_warnings():
        runner = SafeRunner.from_cfg(settings)
    runner.keep = recipe.train.keep
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook):
            hook.max_keep_ckpts = -1  # it would delete an old checkpoint before the new one is written
    keep_from_console(runner.logger)
    return runner


def _notices(recipe: SegmenterRecipe, resumed: Path | None) -> Iterator[str]:
    if resumed:
        yield f"resuming from {resumed}"
    elif not initial_weights(recipe):
        frozen = ", which freeze=true keeps" if recipe.freeze is True else ""
        yield f"{recipe.backbone} starts from random weights{frozen}; set 'pretrained' to use pretrained ones"
    if not recipe.data.generated:
        yield "no generated images: training on the source set alone"


def _finish(recipe: SegmenterRecipe, out: Path, figures: FiguresHook) -> None:
    """Write ``metrics.json``, the exported network and last the record of the result."""
    checkpoint = find_checkpoint(out)
    assert checkpoint  # written by the last iteration
    atomic_write(out / "metrics.json", json_bytes({"loss": figures.loss, "miou": sorted(figures.miou.items())}))
    written = [out / "metrics.json", checkpoint]
    if best := best_checkpoint(out):
        written.append(best)
    if recipe.export:
        onnx = out / "segmenter.onnx"
        network = build_network(runner_config(recipe, out)["model"])
        load_checkpoint(network, checkpoint)
        export_segmenter(network, onnx, recipe.data.crop, recipe.data.classes)
        written += [onnx, onnx.with_suffix(".yaml")]
    record_result(out / RESULT, out, written, **_facts(recipe))


def _facts(recipe: SegmenterRecipe) -> dict[str, Any]:
    return {"steps": recipe.train.steps, "export": recipe.export, "val": recipe.data.val is not None}


def _read_metrics(out: Path) -> dict[str, Any]:
    path = out / "metrics.json"
    if not path.exists():
        return {"loss": None, "miou": []}
    try:
        figures = read_object(path)
        return {"loss": figures["loss"], "miou": [(int(step), float(value)) for step, value in figures["miou"]]}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} cannot be read: {error}", "delete it and run the command again") from error


def _summary(recipe: SegmenterRecipe, out: Path, finished: bool) -> Mapping[str, Any]:
    onnx = out / "segmenter.onnx"
    checkpoints, best = list_checkpoints(out), best_checkpoint(out)
    return {
        "kind": "segmenter",
        "out": str(out),
        "steps": recipe.train.steps,
        "loss": _read_metrics(out)["loss"] if main_process() else None,
        "checkpoint": str(checkpoints[-1]) if checkpoints else None,
        "best": None if best is None else str(best),
        "onnx": str(onnx) if recipe.export else None,
        "next": f"dgkit eval {onnx} --on NAME=DIR" if recipe.export else f"tensorboard --logdir {out}",
        "finished": finished,
    }
