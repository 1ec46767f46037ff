"""A pipeline of functions: simple exact arithmetic instead of networks, with a record of every call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dgkit.diffusion.model_folder import ModelDefaults, ModelInfo
from dgkit.diffusion.pipeline import Pipeline
from dgkit.engines.fake import FakeRunner

FACTOR, CHANNELS, WIDTH, LENGTH, FEATURES, TILE = 8, 4, 6, 5, 3, 8
SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


class WordTokenizer:
    """One token per word and one for the end."""

    def __call__(self, text: Any, max_length: int = 0, **_: Any) -> dict[str, Any]:
        if isinstance(text, str):
            return {"input_ids": [sum(map(ord, word)) % 1000 for word in text.split()] + [0]}
        rows = [self(line)["input_ids"][:max_length] for line in text]
        return {"input_ids": [row + [0] * (max_length - len(row)) for row in rows]}


class Recorder:
    """Networks as functions; ``batches[name]`` counts calls by batch size."""

    def __init__(self, poison: Callable[[dict[str, Tensor]], Tensor] | None = None) -> None:
        self.batches: dict[str, Counter[int]] = {}
        self.prompts = 0
        self._poison = poison

    def runner(self, name: str, fn: Callable[..., dict[str, Tensor]]) -> FakeRunner:
        def call(**tensors: Tensor) -> dict[str, Tensor]:
            size = next(iter(tensors.values())).shape[0]
            self.batches.setdefault(name, Counter())[size] += 1
            return fn(**tensors)

        return FakeRunner(name, call)

    def denoise(self, **tensors: Tensor) -> dict[str, Tensor]:
        text = tensors["text"].mean(dim=(1, 2)).reshape(-1, 1, 1, 1)
        control = tensors["condition"].mean(dim=1, keepdim=True)
        prediction = 0.5 * tensors["latents"] + 0.1 * text + 0.2 * control
        if self._poison is not None:
            prediction = torch.where(self._poison(tensors).reshape(-1, 1, 1, 1), torch.nan, prediction)
        return {"prediction": prediction}

    def pipeline(self, precise: Callable[[], Pipeline] | None = None, guidance: float | None = None) -> Pipeline:
        def text(input_ids: Tensor) -> dict[str, Tensor]:
            self.prompts += len(input_ids)
            return {"text": (input_ids.float() / 1000).unsqueeze(-1).repeat(1, 1, WIDTH)}

        runners = {
            "text_encoder": self.runner("text_encoder", text),
            "condition": self.runner("condition", _shrink),
            "denoiser": self.runner("denoiser", self.denoise),
            "vae_encoder": self.runner("vae_encoder", _encode),
            "vae_decoder": self.runner("vae_decoder", _decode),
        }
        defaults = ModelDefaults(guidance_scale=guidance)
        info = ModelInfo("fake", TILE, FACTOR, CHANNELS, LENGTH, WIDTH, FEATURES, 0.5, SCHEDULER, defaults)
        return Pipeline(info, runners, WordTokenizer(), precise=precise)


def _shrink(label: Tensor) -> dict[str, Tensor]:
    ids = (label * torch.arange(20.0).reshape(1, 20, 1, 1)).sum(1, keepdim=True)
    return {"condition": torch.nn.functional.avg_pool2d(ids, FACTOR).repeat(1, FEATURES, 1, 1) / 20}


def _encode(image: Tensor) -> dict[str, Tensor]:
    small = torch.nn.functional.avg_pool2d(image, FACTOR).mean(1, keepdim=True).repeat(1, CHANNELS, 1, 1)
    return {"mean": small, "logvar": torch.full_like(small, -4.0)}


def _decode(latents: Tensor) -> dict[str, Tensor]:
    big = torch.nn.functional.interpolate(latents[:, :3], scale_factor=FACTOR)
    return {"image": torch.tanh(big)}
