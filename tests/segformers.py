"""A small SegFormer in the layout of transformers."""

import json
from pathlib import Path

import torch

from dgkit.labels import CLASSES


def save_narrow_segformer(path: Path) -> Path:
    """Random weights, a mean of its own; its outputs are the 19 classes in reverse, and one more."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    names = [*CLASSES[::-1], "sofa"]
    config = SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8, 16, 16, 16], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16,
        id2label=dict(enumerate(names)), label2id={name: number for number, name in enumerate(names)},
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        SegformerForSemanticSegmentation(config).eval().save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5, 0.4, 0.3]}))
    return path
