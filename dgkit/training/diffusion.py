"""The UNet stages: the prior on captioned scenes, and its fine-tune on the labelled source (DGInStyle's U^S)."""

from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor

from dgkit.training.batches import Sampler, Text, thin
from dgkit.training.loop import Progress, adamw, train
from dgkit.training.networks import SCHEDULER
from dgkit.training.recipe import DiffusionStage

THIN_SHARE = 0.5  # share of captions that lose some of their class words


def scheduler() -> DDIMScheduler:
    """The noise schedule of training and sampling."""
    return DDIMScheduler.from_config(SCHEDULER)


def draw_timesteps(rng: np.random.Generator, batch: int, high_noise: float) -> Tensor:
    """int64 [B]: uniform over 0..999, a share redrawn above 600, where layout and weather are decided."""
    uniform, high = rng.integers(0, 1000, batch), rng.integers(600, 1000, batch)
    return torch.from_numpy(np.where(rng.random(batch) < high_noise, high, uniform))


def draw_captions(captions: list[str], rng: np.random.Generator, empty: float) -> list[str]:
    """Empty a share of the captions (for the unconditional half of guidance) and thin half of the rest."""
    out = []
    for caption in captions:
        u = rng.random()
        out.append("" if u < empty else thin(caption, rng) if rng.random() < THIN_SHARE else caption)
    return out


def train_unet(
    name: str,
    unet: UNet2DConditionModel,
    sampler: Sampler,
    text: Text,
    stage: DiffusionStage,
    folder: Path,
    seed: int,
    progress: Progress | None,
) -> UNet2DConditionModel:
    """Train ``unet`` in place: mean squared error of v = sqrt(abar) noise - sqrt(1 - abar) latents; resumable."""
    noise_schedule = scheduler()
    unet = unet.to(memory_format=torch.channels_last).train().requires_grad_(True)

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng([seed, step])
        picks = [sampler.pick(rng) for _ in range(stage.batch)]
        latents = sampler.latents(picks)
        hidden = text(draw_captions(sampler.captions(picks), rng, stage.empty_prompt))
        timesteps = draw_timesteps(rng, stage.batch, stage.high_noise)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(int(rng.integers(2**62))))
        with torch.autocast("cpu", torch.bfloat16):
            output = unet(noise_schedule.add_noise(latents, noise, timesteps), timesteps, hidden).sample
        return (output.float() - noise_schedule.get_velocity(latents, noise, timesteps)).square().mean()

    train(name, unet, adamw(unet, stage), loss_at, stage, folder, progress, lambda step: text_effect(unet, text))
    return unet.eval().requires_grad_(False)


@torch.no_grad()
def text_effect(unet: UNet2DConditionModel, text: Text) -> dict[str, float]:
    """How much the style word moves the prediction at t = 900, relative to the prediction: near 0 is a collapse.

    The loss alone hides a model that ignores its prompt.
    """
    tile = unet.config.sample_size
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, unet.config.in_channels, tile, tile, generator=generator)
    prompts = [f"A city street scene with road building sky, in {style} weather." for style in ("snowy", "night")]
    with torch.autocast("cpu", torch.bfloat16):
        snowy, night = (unet(noise, 900, text([prompt] * 4)).sample.float() for prompt in prompts)
    return {"text_effect": float((snowy - night).norm() / night.norm())}
