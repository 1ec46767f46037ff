"""Checkpoints of mmsegmentation with random weights, narrow enough for tests. Needs mmsegmentation."""

import importlib
import warnings
from pathlib import Path
from typing import Any

import torch

from dgkit.labels import CLASSES

MEAN, STD = [120.0, 110.0, 100.0], [60.0, 55.0, 50.0]


def load(module: str) -> Any:
    """Import a module without warnings: mmcv warns about missing operators, and warnings are errors in tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)


def model_config(**changes: Any) -> dict[str, Any]:
    """A SegFormer of 8 to 32 channels that mmsegmentation evaluates by windows of 32."""
    head = {
        "type": "SegformerHead", "in_channels": [8, 16, 16, 32], "in_index": [0, 1, 2, 3], "channels": 16,
        "num_classes": 19, "norm_cfg": {"type": "SyncBN", "requires_grad": True}, "align_corners": False,
    }  # fmt: skip
    backbone = {
        "type": "MixVisionTransformer", "embed_dims": 8, "num_layers": [1] * 4, "num_heads": [1, 2, 2, 4],
        "patch_sizes": [7, 3, 3, 3], "sr_ratios": [8, 4, 2, 1], "init_cfg": {"type": "Pretrained", "checkpoint": "/no"},
    }  # fmt: skip
    preprocessor = {"type": "SegDataPreProcessor", "mean": MEAN, "std": STD, "bgr_to_rgb": True, "size": (32, 32)}
    return {
        "type": "EncoderDecoder",
        "data_preprocessor": preprocessor,
        "backbone": backbone,
        "decode_head": head,
        "test_cfg": {"mode": "slide", "crop_size": (32, 32), "stride": (24, 24)},
        **changes,
    }


def build(model: dict[str, Any]) -> Any:
    """The network of a config with weights that let every class win somewhere."""
    load("mmseg.models")
    load("mmengine.registry").init_default_scope("mmseg")
    backbone = {key: value for key, value in model["backbone"].items() if key != "init_cfg"}
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = load("mmseg.registry").MODELS.build({**model, "backbone": backbone})
        network = load("mmengine.model").revert_sync_batchnorm(network)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
    return network.eval()


def text(model: dict[str, Any], **others: Any) -> str:
    """A config file as mmengine dumps it."""
    return load("mmengine.config").Config({"model": model, "default_scope": "mmseg", **others}).pretty_text


def save(
    path: Path,
    model: dict[str, Any],
    *,
    classes: tuple[str, ...] | None = CLASSES,
    inside: bool = True,
    **others: Any,
) -> Any:
    """Write a checkpoint, with its config ``inside`` it or in ``config.py`` next to it; return the network."""
    network = build(model)
    meta: dict[str, Any] = {"iter": 1}
    if classes:
        meta["dataset_meta"] = {"classes": classes, "palette": [[0, 0, 0]] * len(classes)}
    if inside:
        meta["cfg"] = text(model, **others)
    else:
        path.with_name("config.py").write_text(text(model, **others))
    torch.save({"meta": meta, "state_dict": network.state_dict()}, path)
    return network
