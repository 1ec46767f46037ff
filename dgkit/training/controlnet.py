"""The ControlNet stage: label maps steer the frozen source UNet."""

from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor

from dgkit.diffusion.pipeline import one_hot
from dgkit.training.batches import Sampler, Text
from dgkit.training.diffusion import draw_captions, draw_timesteps, scheduler
from dgkit.training.loop import Progress, adamw, train
from dgkit.training.networks import build_controlnet
from dgkit.training.recipe import ControlNetStage


def train_controlnet(
    source_unet: UNet2DConditionModel,
    sampler: Sampler,
    text: Text,
    stage: ControlNetStage,
    folder: Path,
    seed: int,
    progress: Progress | None,
) -> ControlNetModel:
    """Train a ControlNet on the frozen ``source_unet``; resumable."""
    torch.manual_seed(seed)
    noise_schedule = scheduler()
    unet = source_unet.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    controlnet = build_controlnet(unet).to(memory_format=torch.channels_last).train().requires_grad_(True)

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng([seed, step])
        picks = [sampler.pick(rng) for _ in range(stage.batch)]
        latents, condition = sampler.latents(picks), one_hot(torch.from_numpy(sampler.labels(picks)))
        hidden = text(draw_captions(sampler.captions(picks), rng, stage.empty_prompt))
        timesteps = draw_timesteps(rng, stage.batch, stage.high_noise)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(int(rng.integers(2**62))))
        noisy = noise_schedule.add_noise(latents, noise, timesteps)
        with torch.autocast("cpu", torch.bfloat16):
            down, middle = controlnet(noisy, timesteps, hidden, condition, return_dict=False)
            output = unet(
                noisy,
                timesteps,
                hidden,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
            ).sample
        return (output.float() - noise_schedule.get_velocity(latents, noise, timesteps)).square().mean()

    optimizer = adamw(controlnet, stage, faster=("controlnet_down_blocks", stage.zero_conv_lr))
    train("controlnet", controlnet, optimizer, loss_at, stage, folder, progress)
    return controlnet.eval().requires_grad_(False)
