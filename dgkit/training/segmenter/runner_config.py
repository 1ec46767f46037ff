"""The config of mmengine's Runner for a recipe, also readable by mmsegmentation's own tools."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgkit.training.segmenter import hooks, mixture, precision, style_hook  # noqa: F401  (registers them)
from dgkit.training.segmenter.networks import model_config
from dgkit.training.segmenter.segmenter_recipe import SegmenterRecipe, SegmenterSchedule

# Parts of names of weights without weight decay in foundation networks, in addition to norms.
UNDECAYED = (
    *("position_embeddings", "cls_token", "register_tokens", "rein.down", "rein.up", "rein.scale"),
    *("level_embed", "queries_embedder", "queries_features", "query.weight"),
)
WARMUP_RATIO = 1e-6  # of the learning rate at the first iteration
# Importing these registers dgkit's networks, data sets and hooks, also for mmsegmentation's own tools. Configs next to
# existing checkpoints name them: do not rename these modules.
IMPORTS = [f"dgkit.training.segmenter.{name}" for name in ("networks", "mixture", "hooks", "precision", "style_hook")]


def runner_config(recipe: SegmenterRecipe, out: Path) -> dict[str, Any]:
    """Return the config for ``Runner.from_cfg``: AdamW, warm-up and linear decay, checkpoints, TensorBoard."""
    train, data = recipe.train, recipe.data
    model = model_config(
        recipe.head,
        recipe.backbone,
        data.crop,
        two_scales=recipe.two_scales,
        channels=recipe.channels,
        terms=recipe.terms,
        encoder=recipe.encoder,
        classes=data.classes.size,
    )
    config: dict[str, Any] = {
        "default_scope": "mmseg",
        "custom_imports": {"imports": IMPORTS, "allow_failed_imports": False},
        "work_dir": str(out),
        "model": model,
        "train_dataloader": {
            "batch_size": train.batch,
            "num_workers": data.workers,
            "persistent_workers": data.workers > 0,
            # Not shuffled: a sample is a function of its index, so a resumed run continues with the right one.
            "sampler": {"type": "InfiniteSampler", "shuffle": False},
            "dataset": {
                "type": "SourceAndGenerated",
                "data": data.model_dump(mode="json", exclude_unset=True),
                "seed": recipe.seed,
                "length": train.steps * train.batch,
            },
        },
        "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": train.steps, "val_interval": train.validate_every},
        "optim_wrapper": optimiser(train, recipe.foundation, block_rates(model, train.layer_decay)),
        "param_scheduler": schedule(train),
        "default_hooks": default_hooks(recipe),
        "custom_hooks": custom_hooks(recipe),
        "randomness": {"seed": recipe.seed},
        "env_cfg": {"cudnn_benchmark": True, "mp_cfg": {"mp_start_method": "fork", "opencv_num_threads": 0}},
        "visualizer": {
            "type": "SegLocalVisualizer",
            "name": f"visualizer of {out}",  # mmengine keeps one per name and process
            "vis_backends": [{"type": "TensorboardVisBackend"}],
        },
        "log_level": "ERROR",  # of the console; keep_from_console sets that of the log file
    }
    return config | validation(recipe)


def optimiser(
    train: SegmenterSchedule, foundation: bool = False, rates: Mapping[str, dict[str, float]] | None = None
) -> dict[str, Any]:
    """Return AdamW with a separate learning rate for heads and no weight decay for norms.

    ``foundation``: also none for embeddings, tokens and queries, in the heads as well. ``rates``: further options by
    parts of names.
    """
    keys: dict[str, dict[str, float]] = {"norm": {"decay_mult": 0.0}}
    paramwise: dict[str, Any] = {"custom_keys": keys}
    if foundation:
        paramwise["norm_decay_mult"] = 0.0
        keys |= {name: {"decay_mult": 0.0} for name in UNDECAYED}
    if not foundation or train.head_lr != 1:  # mmengine applies the longest key in a name alone: these win
        keys |= {"decode_head": {"lr_mult": train.head_lr}, "scale_head": {"lr_mult": train.head_lr}}
    keys |= dict(rates or {})
    wrapper: dict[str, Any] = {
        "type": "OptimWrapper",
        "optimizer": {"type": "AdamW", "lr": train.lr, "betas": (0.9, 0.999), "weight_decay": train.weight_decay},
        "paramwise_cfg": paramwise,
    }
    if train.clip is not None:
        wrapper["clip_grad"] = {"max_norm": train.clip}
    if train.precision == "bf16":
        wrapper["type"] = "Bf16OptimWrapper"
    elif train.precision == "fp16":
        wrapper |= {"type": "AmpOptimWrapper", "dtype": "float16"}
    return wrapper


def block_rates(model: Mapping[str, Any], decay: float) -> dict[str, dict[str, float]]:
    """Return the learning rates of a ViT's blocks by parts of names: ``decay`` times that of the next block.

    Embeddings have the rate of the first block. Empty if ``decay`` is 1.
    """
    count = model["backbone"].get("settings", {}).get("num_hidden_layers", 0)
    if decay == 1 or not count:
        return {}
    rates = {"encoder.embeddings.": {"lr_mult": decay ** (count - 1)}}
    for block in range(count):
        rate = {"lr_mult": decay ** (count - 1 - block)}
        rates |= {f".layer.{block}.": rate, f".layer.{block}.norm": {**rate, "decay_mult": 0.0}}
    return rates


def schedule(train: SegmenterSchedule) -> list[dict[str, Any]]:
    """Return linear warm-up, then polynomial decay to 0 at the last iteration."""
    warmup = min(train.warmup, train.steps - 1)
    decay = {"type": "PolyLR", "power": train.power, "eta_min": 0.0, "begin": warmup, "end": train.steps}
    decay["by_epoch"] = False
    if not warmup:
        return [decay]
    return [{"type": "LinearLR", "start_factor": WARMUP_RATIO, "begin": 0, "end": warmup, "by_epoch": False}, decay]


def default_hooks(recipe: SegmenterRecipe) -> dict[str, Any]:
    """Return the hooks for log lines and checkpoints: the last ``keep``, the final one, the best by validation mIoU."""
    checkpoint: dict[str, Any] = {
        "type": "CheckpointHook",
        "by_epoch": False,
        "interval": recipe.train.checkpoint_every,
        "max_keep_ckpts": recipe.train.keep,
        "save_last": True,
    }
    if recipe.data.val:
        checkpoint |= {"save_best": "mIoU", "rule": "greater"}
    return {"logger": {"type": "LoggerHook", "interval": 50, "log_metric_by_epoch": False}, "checkpoint": checkpoint}


def custom_hooks(recipe: SegmenterRecipe) -> list[dict[str, Any]]:
    """Return the hooks for reproducible randomness, for EoMT's masks and for SHADE's base styles."""
    chosen: list[dict[str, Any]] = [{"type": "SeededIterations", "seed": recipe.seed}]
    if recipe.head == "eomt":
        chosen.append({"type": "MaskAnnealing"})
    if shade := recipe.shade:
        chosen.append({"type": "BaseStyles", "count": shade.styles, "refresh": shade.refresh, "images": shade.images})
    return chosen


def validation(recipe: SegmenterRecipe) -> dict[str, Any]:
    """Return the validation of whole images with IoUMetric; empty without a validation set."""
    if recipe.data.val is None:
        return {}
    classes = {} if recipe.data.classes.is_default else {"taxonomy": recipe.data.taxonomy}
    return {
        "val_dataloader": {
            "batch_size": 1,
            "num_workers": recipe.data.workers,
            "persistent_workers": recipe.data.workers > 0,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "dataset": {"type": "WholeImages", "labelled": recipe.data.val.model_dump(mode="json"), **classes},
        },
        "val_cfg": {"type": "ValLoop"},
        "val_evaluator": {"type": "IoUMetric", "iou_metrics": ["mIoU"]},
    }
