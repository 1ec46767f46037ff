"""Tiny encoders of transformers, each a folder with a config.json and, if requested, weights."""

import json
from pathlib import Path
from typing import Any

_VIT = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "patch_size": 8, "image_size": 40}
_CNN = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
CONFIGS: dict[str, dict[str, Any]] = {
    "dinov2": _VIT,
    "dinov2_with_registers": {**_VIT, "num_register_tokens": 2},
    "dinov3_vit": {**_VIT, "num_register_tokens": 2, "intermediate_size": 64},
    "swin": {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 4], "window_size": 2},
    "convnext": _CNN,
    "dinov3_convnext": _CNN,
    "resnet": {**_CNN, "embedding_size": 8, "layer_type": "basic"},
}
VITS = ("dinov2", "dinov2_with_registers", "dinov3_vit")


def encoder_folder(folder: Path, kind: str, **changes: Any) -> str:
    """Write the config of an encoder to ``folder``; return it as a backbone of a recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": kind, **CONFIGS[kind], **changes}))
    return f"transformers:{folder}"


def save_encoder(folder: Path, kind: str, **changes: Any) -> Any:
    """Write an encoder with random weights to ``folder``, as published ones are; return the model."""
    from transformers import CONFIG_MAPPING, AutoModel

    model = AutoModel.from_config(CONFIG_MAPPING[kind](**{**CONFIGS[kind], **changes})).eval()
    model.save_pretrained(folder)
    return model
