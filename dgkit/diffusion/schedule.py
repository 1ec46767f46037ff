"""Noise schedules and solvers as immutable values and pure functions; the caller keeps the state of a solver.

Both solvers follow diffusers' ``DDIMScheduler`` (eta 0) and ``DPMSolverMultistepScheduler`` (dpmsolver++, order 2,
midpoint) in timesteps, levels and end conditions, and are tested against them. A step is linear in the prediction, so
averaging the predictions of overlapping tiles and taking one step equals averaging the tiles after their steps.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgkit.errors import ModelError, UsageError, shown

SOLVERS = ("ddim", "dpm++2m")
SPACINGS = ("leading", "trailing", "linspace")
PREDICTIONS = ("epsilon", "v_prediction")
# Where a config does not state its spacing, each scheduler of diffusers has its own.
DEFAULT_SPACING = {"ddim": "leading", "dpm++2m": "linspace"}
# Settings of DPMSolverMultistepScheduler that change solver or noise levels, with the values that dpm++2m allows.
_DPM_VALUES: dict[str, tuple[Any, ...]] = {
    "solver_order": (2,),
    "algorithm_type": ("dpmsolver++", "deis"),  # diffusers also reads DEIS and UniPC configs in this way
    "solver_type": ("midpoint", "logrho", "bh1", "bh2"),
    "lower_order_final": (True,),
    "euler_at_final": (False,),
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "use_lu_lambdas": (False, None),
    "use_flow_sigmas": (False, None),
    "use_dynamic_shifting": (False, None),
    "lambda_min_clipped": (-math.inf,),
    "variance_type": (None, "fixed_small", "fixed_large"),
}
_MOST_TIMESTEPS = 100_000
FEW_STEPS = 15  # with fewer steps the last one is first order, for stability: diffusers' lower_order_final


@dataclass(frozen=True)
class Level:
    """A noise level: a latent at this level is ``signal * clean + noise * n`` with ``n`` standard normal."""

    signal: float
    noise: float


@dataclass(frozen=True)
class Schedule:
    """A solver and its N descending ``timesteps``.

    ``levels`` has N + 1 entries: before each step, and after the last. ``reached`` is the level after each step.
    ``table`` has the level of every training timestep.
    """

    solver: str
    prediction_type: str
    timesteps: tuple[int, ...]
    levels: tuple[Level, ...]
    reached: tuple[Level, ...]
    table: tuple[Level, ...]

    def step(self, index: int, latents: Tensor, prediction: Tensor, last: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the latents after step ``index``, and the clean estimate to pass as ``last`` to the next step.

        ``latents`` and ``prediction``: float [B, c, h, w] of equal shape; ``last`` is None at the first step.
        """
        clean, noise = self.split(index, latents, prediction)
        if self.solver == "ddim":
            target = self.reached[index]
            return target.signal * clean + target.noise * noise, clean
        return self._multistep(index, latents, clean, last), clean

    def split(self, index: int, latents: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """Return the clean latents and the noise that ``prediction`` implies for ``latents`` at step ``index``."""
        here = self.levels[index]
        if self.prediction_type == "epsilon":
            return (latents - here.noise * prediction) / here.signal, prediction
        return here.signal * latents - here.noise * prediction, here.signal * prediction + here.noise * latents

    def _multistep(self, index: int, latents: Tensor, clean: Tensor, last: Tensor | None) -> Tensor:
        """Take a step of DPM-Solver++(2M), Lu et al. 2022, algorithm 2.

        It is first order at the start, and at the end under the same conditions as in diffusers.
        """
        here, target = self.levels[index], self.reached[index]
        step = _log_snr(target) - _log_snr(here)
        scale = target.signal * math.expm1(-step)
        result = (target.noise / here.noise) * latents - scale * clean
        steps = len(self.timesteps)
        final = index == steps - 1 and (steps < FEW_STEPS or target.noise == 0.0)
        if last is None or final:
            return result
        ratio = (_log_snr(here) - _log_snr(self.levels[index - 1])) / step
        return result - (0.5 * scale / ratio) * (clean - last)

    def tail(self, share: float) -> "Schedule":
        """Return the last ``share`` of the steps, at least one, for latents noised to ``levels[0]`` of the result."""
        skipped = len(self.timesteps) - max(1, round(share * len(self.timesteps)))
        return dataclasses.replace(
            self, timesteps=self.timesteps[skipped:], levels=self.levels[skipped:], reached=self.reached[skipped:]
        )

    def fused(self, index: int, rule: str, clean: Tensor, noise: Tensor) -> Tensor:
        """Return ``clean`` latents, noised to be merged with the canvas after step ``index``.

        Rule ``reached``: the level that the canvas has just reached. Rule ``official``: the level of training timestep
        t - 1, as in DGInStyle's pipeline_refine.py, which is noisier than the canvas in all steps except the last.
        Raises ModelError if t - 1 is negative, for which the official code uses the noisiest level.
        """
        level = self.reached[index]
        if rule == "official":
            position = self.timesteps[index] - 1
            if position < 0:
                raise ModelError(
                    "fuse level 'official' uses timestep t - 1, but the schedule of this model ends at t = 0",
                    "use --preset exact",
                )
            level = self.table[position]
        return level.signal * clean + level.noise * noise


def make_schedule(config: Mapping[str, Any], steps: int, solver: str = "ddim") -> Schedule:
    """Return the schedule that a ``scheduler_config.json`` and a number of steps define.

    It depends on the betas, ``prediction_type``, ``timestep_spacing`` (:data:`DEFAULT_SPACING` if not stated),
    ``steps_offset``, ``set_alpha_to_one``, ``rescale_betas_zero_snr`` and ``final_sigmas_type``. Clipping that is not
    stated is off, as in diffusers' Stable Diffusion pipelines. Raises ModelError for a config with clipping or
    thresholding, which are not linear, and for settings of another multistep solver; UsageError for an unknown solver
    or a number of steps out of range.
    """
    prediction, spacing = _check(config, steps, solver)
    alphas = _alphas_cumprod(config)
    if solver == "dpm++2m" and config.get("rescale_betas_zero_snr"):
        alphas[-1] = 2.0**-24  # as in diffusers, for a finite first log-SNR
    if solver == "dpm++2m" and not bool((alphas > 0.0).all()):
        raise ModelError("scheduler_config.json: the betas leave no signal at the last timesteps")
    if prediction == "epsilon" and alphas[-1] <= 0.0:
        raise ModelError(
            "scheduler_config.json: zero terminal SNR does not work with prediction_type 'epsilon'; use 'v_prediction'"
        )
    table = tuple(Level(math.sqrt(a), math.sqrt(1.0 - a)) for a in alphas.tolist())
    offset = int(_number(config, "steps_offset", 0))
    times = _ddim_times if solver == "ddim" else _dpm_times
    timesteps = times(len(table), steps, spacing, offset)
    if max(timesteps) >= len(table) or min(timesteps) < 0:
        raise ModelError(
            f"scheduler_config.json: steps_offset {offset} with {steps} steps exceeds {len(table)} training timesteps"
        )
    levels = [table[t] for t in timesteps]
    if solver == "ddim":
        final = Level(1.0, 0.0) if config.get("set_alpha_to_one", True) else table[0]
        back = len(table) // steps
        reached = [table[t - back] if t >= back else final for t in timesteps]
    else:
        final = Level(1.0, 0.0) if config.get("final_sigmas_type", "zero") == "zero" else table[0]
        reached = [*levels[1:], final]
    return Schedule(solver, prediction, timesteps, (*levels, final), tuple(reached), table)


def _check(config: Mapping[str, Any], steps: int, solver: str) -> tuple[str, str]:
    if solver not in SOLVERS:
        raise UsageError(f"unknown solver {solver!r}; known: {', '.join(SOLVERS)}", f"use solver={SOLVERS[0]}")
    prediction = config.get("prediction_type", "epsilon")
    spacing = config.get("timestep_spacing", DEFAULT_SPACING[solver])
    total = _timesteps(config)
    if not 1 <= steps < total:
        raise UsageError(f"{steps} steps; allowed: 1 to {total - 1}", "use for example --set steps=20")
    for value, known, key in ((prediction, PREDICTIONS, "prediction_type"), (spacing, SPACINGS, "timestep_spacing")):
        if value not in known:
            raise ModelError(f"scheduler_config.json: {key} {shown(value)}; supported: {', '.join(known)}")
    for key in ("clip_sample", "thresholding"):
        if config.get(key):
            raise ModelError(f"scheduler_config.json: {key} is not supported; set it to false")
    for key, allowed in _DPM_VALUES.items() if solver == "dpm++2m" else ():
        if key in config and config[key] not in allowed:
            raise ModelError(
                f"scheduler_config.json: {key} is {shown(config[key])}, which solver dpm++2m does not support",
                f"set it to {json.dumps(allowed[0])}, or use a preset with solver=ddim",
            )
    return prediction, spacing


def _alphas_cumprod(config: Mapping[str, Any]) -> Tensor:
    """Return float32 [T], computed in float32 as in diffusers, so that levels agree to the last bit."""
    total = _timesteps(config)
    first, last = _number(config, "beta_start", 0.0001), _number(config, "beta_end", 0.02)
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


def _number(config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
        raise ModelError(f"scheduler_config.json: {key} is {shown(value)}; expected a number")
    return value


def _timesteps(config: Mapping[str, Any]) -> int:
    total = _number(config, "num_train_timesteps", 1000)
    if total != int(total) or not 2 <= total <= _MOST_TIMESTEPS:
        raise ModelError(f"scheduler_config.json: num_train_timesteps is {total}; expected 2 to {_MOST_TIMESTEPS}")
    return int(total)


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


def _ddim_times(total: int, steps: int, spacing: str, offset: int) -> tuple[int, ...]:
    times: np.ndarray
    if spacing == "linspace":
        times = np.linspace(0, total - 1, steps).round()[::-1]
    elif spacing == "leading":
        times = (np.arange(steps) * (total // steps))[::-1] + offset
    else:
        times = np.round(np.arange(total, 0, -total / steps)) - 1
    return tuple(int(t) for t in times)


def _dpm_times(total: int, steps: int, spacing: str, offset: int) -> tuple[int, ...]:
    times: np.ndarray
    if spacing == "linspace":
        times = np.linspace(0, total - 1, steps + 1).round()[::-1][:-1]
    elif spacing == "leading":
        times = (np.arange(steps + 1) * (total // (steps + 1)))[::-1][:-1] + offset
    else:
        times = np.arange(total, 0, -total / steps).round() - 1
    return tuple(int(t) for t in times)


def _log_snr(level: Level) -> float:
    """Return half the log signal-to-noise ratio, lambda in the DPM-Solver papers; infinite without noise."""
    return math.inf if level.noise == 0.0 else math.log(level.signal / level.noise)
