"""Noise levels of the training timesteps, from the betas that a ``scheduler_config.json`` defines."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dgkit.diffusion.timesteps import number, training_timesteps
from dgkit.errors import ModelError, shown


@dataclass(frozen=True)
class Level:
    """A noise level: a latent at this level is ``signal * clean + noise * n`` with ``n`` standard normal."""

    signal: float
    noise: float

    @property
    def log_snr(self) -> float:
        """Half the log signal-to-noise ratio, lambda in the papers on solvers; infinite without noise."""
        return math.inf if self.noise == 0.0 else math.log(self.signal / self.noise)


def alphas_cumprod(config: Mapping[str, Any]) -> Tensor:
    """Return the squared signal of every training timestep, float32 [T].

    It is computed in float32 as in diffusers, so that levels agree to the last bit. Raises ModelError for betas that
    define no noise levels.
    """
    total = training_timesteps(config)
    first, last = number(config, "beta_start", 0.0001), number(config, "beta_end", 0.02)
    if not (0.0 < first < 1.0 and 0.0 < last < 1.0):
        raise ModelError(f"scheduler_config.json: beta_start {first} or beta_end {last} is not between 0 and 1")
    kind = config.get("beta_schedule", "linear")
    if config.get("trained_betas") is not None:
        betas = _trained_betas(config["trained_betas"], total)
    elif kind == "linear":
        betas = torch.linspace(first, last, total, dtype=torch.float32)
    elif kind == "scaled_linear":
        betas = torch.linspace(first**0.5, last**0.5, total, dtype=torch.float32) ** 2
    elif kind == "squaredcos_cap_v2":
        betas = _cosine_betas(total)
    else:
        raise ModelError(
            f"scheduler_config.json: beta_schedule {shown(kind)}; supported: linear, scaled_linear, squaredcos_cap_v2"
        )
    if not bool(((betas > 0.0) & (betas < 1.0)).all()):
        raise ModelError("scheduler_config.json: a value of trained_betas is not between 0 and 1")
    if config.get("rescale_betas_zero_snr"):
        betas = _zero_terminal_snr(betas)
    return torch.cumprod(1.0 - betas, dim=0)


def _trained_betas(values: Any, total: int) -> Tensor:
    try:
        betas = torch.tensor(values, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        betas = torch.zeros(0)
    if betas.shape != (total,):
        raise ModelError(
            f"scheduler_config.json: trained_betas is {shown(values, 80)}; expected num_train_timesteps={total} numbers"
        )
    return betas


def _cosine_betas(total: int) -> Tensor:
    """Return betas by Nichol and Dhariwal 2021, equation 17, capped at 0.999."""

    def level(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - level((i + 1) / total) / level(i / total), 0.999) for i in range(total)]
    return torch.tensor(betas, dtype=torch.float32)


def _zero_terminal_snr(betas: Tensor) -> Tensor:
    """Rescale betas so that the last level has no signal: Lin et al. 2023 (arXiv 2305.08891), algorithm 1."""
    root = torch.cumprod(1.0 - betas, dim=0).sqrt()
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    bars = root**2
    alphas = torch.cat([bars[:1], bars[1:] / bars[:-1]])
    return 1.0 - alphas
