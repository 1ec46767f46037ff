"""Tiny LoRA files with random weights, in the formats that people publish."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dgkit.diffusion.part_config import TEXT_ENCODERS, read_config
from dgkit.diffusion.weights import construct

UNET_LAYERS = ("attn1.to_q", "attn2.to_k", "attn2.to_out.0", "ff.net.0.proj", "proj_in")
CONVOLUTIONS = ("resnets.0.conv1", "downsamplers.0.conv")
TEXT_LAYERS = ("q_proj", "out_proj", "fc1")
_KOHYA = {"unet": "lora_unet", "text_encoder": "lora_te", "text_encoder_2": "lora_te2"}


def make_lora(
    path: Path, model: Path, *, kind: str = "peft", text: bool = True, rank: int = 2, alpha: float | None = None,
    seed: int = 0,
) -> Path:  # fmt: skip
    """Write a LoRA for the parts of a model folder: ``kind`` peft, or kohya, which has convolutions, too."""
    generator, tensors, metadata = torch.Generator().manual_seed(seed), {}, {}
    two = (model / "text_encoder_2").is_dir()
    for part in ("unet", *(name for name in TEXT_ENCODERS if text and (model / name).is_dir())):
        for name, layer in _layers(model, part, kind):
            down, up = _pair(layer, rank, generator)
            tensors.update(_named(part, name, down, up, kind, two, alpha))
        if alpha is not None and kind == "peft":
            ends = list(TEXT_LAYERS if part in TEXT_ENCODERS else UNET_LAYERS)
            metadata |= {f"{part}.r": rank, f"{part}.lora_alpha": alpha, f"{part}.target_modules": ends}
    header = {"format": "pt", **({"lora_adapter_metadata": json.dumps(metadata)} if metadata else {})}
    save_file(tensors, path, metadata=header)
    return path


def _layers(model: Path, part: str, kind: str) -> Iterator[tuple[str, Any]]:
    with torch.device("meta"):
        module = construct(part, read_config(model / part, part))
    ends = (TEXT_LAYERS if part in TEXT_ENCODERS else UNET_LAYERS) + (CONVOLUTIONS if kind == "kohya" else ())
    found = [(name, layer) for name, layer in module.named_modules() if name.endswith(ends)]
    yield from ((name, layer) for name, layer in found if isinstance(layer, nn.Linear | nn.Conv2d))


def _pair(layer: Any, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    shape = tuple(layer.weight.shape)
    down = torch.randn((rank, *shape[1:]), generator=generator) * 0.3
    return down, torch.randn((shape[0], rank, *(1 for _ in shape[2:])), generator=generator) * 0.3


def _named(
    part: str, name: str, down: Tensor, up: Tensor, kind: str, two: bool, alpha: float | None
) -> dict[str, Tensor]:
    full = f"text_model.{name.removeprefix('text_model.')}" if part in TEXT_ENCODERS else name
    if kind == "peft":
        return {f"{part}.{full}.lora_A.weight": down, f"{part}.{full}.lora_B.weight": up}
    prefix = "lora_te1" if two and part == "text_encoder" else _KOHYA[part]
    key = f"{prefix}_{full.replace('.', '_')}"
    found = {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
    return found if alpha is None else {**found, f"{key}.alpha": torch.tensor(alpha)}
