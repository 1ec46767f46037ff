"""Losses: targets and weights of the diffusion loss, and the terms of the autoencoder's loss."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor

from dgkit.errors import ModelError

PREDICTIONS = ("epsilon", "v_prediction")


def noise_schedule(config: Mapping[str, Any]) -> DDIMScheduler:
    """Return the schedule of a ``scheduler_config.json``. Raises ModelError for an unsupported prediction type."""
    kind = config.get("prediction_type", "epsilon")
    if kind not in PREDICTIONS:
        raise ModelError(
            f"the scheduler has prediction_type={kind!r}; training supports {', '.join(PREDICTIONS)}",
            "change prediction_type in scheduler/scheduler_config.json",
        )
    return DDIMScheduler.from_config({key: value for key, value in config.items() if not key.startswith("_")})


def draw_timestep(rng: np.random.Generator, high_noise: float, floor: int, count: int) -> int:
    """Return a timestep in 0..``count - 1``: uniform, or with probability ``high_noise`` uniform from ``floor`` up.

    Layout and weather are decided at high noise, which a short training samples too rarely.
    """
    uniform, high = rng.integers(count), rng.integers(min(floor, count - 1), count)
    return int(high if rng.random() < high_noise else uniform)


def redraw_timestep(rng: np.random.Generator, timestep: int, share: float, bounds: tuple[int, int]) -> int:
    """Return ``timestep``, or with probability ``share`` one that is uniform in ``bounds``, both included."""
    chosen, redrawn = rng.random() < share, int(rng.integers(bounds[0], bounds[1] + 1))
    return redrawn if chosen else timestep


def diffusion_target(schedule: DDIMScheduler, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return the target, shape of ``latents`` [B,C,h,w]: the noise, or v = signal * noise - sigma * latents.

    Sources: Ho et al. 2020, equation 14; Salimans and Ho 2022, section 4.
    """
    if schedule.config.prediction_type == "epsilon":
        return noise
    return schedule.get_velocity(latents, noise, timesteps)


def snr_weights(schedule: DDIMScheduler, timesteps: Tensor, gamma: float | None) -> Tensor:
    """Return sample weights, float32 [B]: min(SNR, gamma) / SNR, for v / (SNR + 1); ones if ``gamma`` is None.

    Source: Hang et al. 2023 (Min-SNR), section 3.4. At zero terminal SNR the noise prediction keeps weight 1.
    """
    if gamma is None:
        return torch.ones(timesteps.shape, device=timesteps.device)
    snr = compute_snr(schedule, timesteps)
    capped = snr.clamp(max=gamma)
    if schedule.config.prediction_type == "v_prediction":
        return capped / (snr + 1)
    return torch.where(snr > 0, capped / snr.clamp(min=1e-12), torch.ones_like(snr))


def diffusion_loss(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the mean over the batch of the weighted mean squared error of [B,C,h,w], in float32; scalar."""
    error = (prediction.float() - target.float()).square().flatten(1).mean(1)
    return (error * weights.to(error.device)).mean()


def reconstruction_loss(output: Tensor, target: Tensor, gradient: float, chroma: float) -> Tensor:
    """Return L1 + ``gradient`` * L1 of differences + ``chroma`` * chroma L1 of float32 [B,3,H,W] in [-1, 1]; scalar.

    The chroma term, |d(R-G)| + |d(B-G)|, keeps small red and green objects, which turn grey with L1 alone.
    """
    error = output - target
    horizontal = (error[..., :, 1:] - error[..., :, :-1]).abs().mean()
    vertical = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    red, green, blue = error.unbind(1)
    colour = (red - green).abs().mean() + (blue - green).abs().mean()
    return error.abs().mean() + gradient * (horizontal + vertical) + chroma * colour


def kl_loss(mean: Tensor, logvar: Tensor) -> Tensor:
    """Return the KL divergence of a diagonal Gaussian to the standard one, mean over all latent values; scalar.

    Source: Kingma and Welling 2014, appendix B.
    """
    return 0.5 * (mean.float().square() + logvar.float().exp() - 1 - logvar.float()).mean()


def psnr(output: Tensor, target: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB of [B,3,H,W] in [-1, 1]; the output is clamped."""
    error = (output.float().clamp(-1, 1) - target.float()).square().mean()
    return float(10 * torch.log10(4 / error.clamp(min=1e-12)))
