"""Noise schedules and solvers as immutable values and pure functions; the caller keeps the state of a solver.

All solvers follow the schedulers of diffusers named in :data:`dgkit.diffusion.timesteps.SOLVERS` in timesteps, levels
and end conditions, and are tested against them. A step is linear in the prediction, so averaging the predictions of
overlapping tiles and taking one step equals averaging the tiles after their steps. The noise that a step adds is an
argument: one noise for the whole canvas, so overlapping tiles share it.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dgkit.diffusion.noise_levels import Level, alphas_cumprod
from dgkit.diffusion.timesteps import ETA, SOLVERS, check_settings, chosen_spacing, make_timesteps, number
from dgkit.errors import ModelError

FEW_STEPS = 15  # with fewer steps the last one is first order, for stability: diffusers' lower_order_final
State = tuple[Tensor, ...]
"""What a solver passes from a step to the next; empty before the first."""


@dataclass(frozen=True)
class Schedule:
    """A solver and its N descending ``timesteps``.

    ``levels`` has N + 1 entries: before each step, and after the last. ``reached`` is the level after each step,
    ``through`` the one that ``tcd`` passes before it adds noise. ``table`` has the level of every training timestep.
    ``start`` is the scale of the initial noise: below 1 where diffusers' Euler scheduler has no more than
    ``levels[0].noise``. ``boundary`` is diffusers' ``timestep_scaling`` of ``lcm``.
    """

    solver: str
    prediction_type: str
    timesteps: tuple[int, ...]
    levels: tuple[Level, ...]
    reached: tuple[Level, ...]
    through: tuple[Level, ...]
    table: tuple[Level, ...]
    start: float = 1.0
    boundary: float = 10.0

    def needs_noise(self, index: int) -> bool:
        """Return whether step ``index`` adds noise; the last step never does."""
        if self.solver == "tcd":
            return self.through[index] != self.reached[index]
        return self.solver == "lcm" and index < len(self.timesteps) - 1

    def step(
        self, index: int, latents: Tensor, prediction: Tensor, state: State = (), noise: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Return the latents after step ``index``, and the state to pass to the next step.

        ``latents``, ``prediction`` and ``noise``: float [B, c, h, w] of equal shape; ``noise`` is standard normal and
        required if :meth:`needs_noise`.
        """
        clean, direction = self.split(index, latents, prediction)
        target = self.reached[index]
        if self.solver == "dpm++2m":
            return self._multistep(index, latents, clean, state), (clean,)
        if self.solver == "unipc":
            return self._unipc(index, latents, clean, state)
        if self.solver == "lcm":
            clean = self._consistent(index, latents, clean)
            return (clean if noise is None else target.signal * clean + target.noise * noise), ()
        through = self.through[index]
        found = through.signal * clean + through.noise * direction
        return (found if noise is None else _noised(found, through, target, noise)), ()

    def split(self, index: int, latents: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """Return the clean latents and the noise that ``prediction`` implies for ``latents`` at step ``index``."""
        here = self.levels[index]
        if self.prediction_type == "epsilon":
            return (latents - here.noise * prediction) / here.signal, prediction
        if self.prediction_type == "sample":
            return prediction, (latents - here.signal * prediction) / here.noise
        return here.signal * latents - here.noise * prediction, here.signal * prediction + here.noise * latents

    def _multistep(self, index: int, latents: Tensor, clean: Tensor, state: State) -> Tensor:
        """Take a step of DPM-Solver++(2M), Lu et al. 2022, algorithm 2.

        It is first order at the start, and at the end under the same conditions as in diffusers.
        """
        here, target = self.levels[index], self.reached[index]
        step = target.log_snr - here.log_snr
        scale = target.signal * math.expm1(-step)
        result = (target.noise / here.noise) * latents - scale * clean
        steps = len(self.timesteps)
        final = index == steps - 1 and (steps < FEW_STEPS or target.noise == 0.0)
        if not state or final:
            return result
        ratio = (here.log_snr - self.levels[index - 1].log_snr) / step
        return result - (0.5 * scale / ratio) * (clean - state[0])

    def _unipc(self, index: int, latents: Tensor, clean: Tensor, state: State) -> tuple[Tensor, State]:
        """Take a step of UniPC of order 2 with B2(h), Zhao et al. 2023: correct the latents, then predict the next.

        The state is the corrected latents of the last step and the clean latents of the last two.
        """
        here, target = self.levels[index], self.reached[index]
        if state:
            latents = self._corrected(index, clean, state)
        past = (clean, *state[1:2])
        step = target.log_snr - here.log_snr
        scale = target.signal * math.expm1(-step)
        result = (target.noise / here.noise) * latents - scale * clean
        if state and index < len(self.timesteps) - 1:
            ratio = (self.levels[index - 1].log_snr - here.log_snr) / step
            result = result - (0.5 * scale / ratio) * (state[1] - clean)
        return result, (latents, *past)

    def _corrected(self, index: int, clean: Tensor, state: State) -> Tensor:
        """Return the latents before step ``index`` by UniC, which uses the clean latents found for them."""
        before, here = self.levels[index - 1], self.levels[index]
        last, previous, *older = state
        step = here.log_snr - before.log_snr
        scale = here.signal * math.expm1(-step)
        result = (here.noise / before.noise) * last - scale * previous
        if not older:
            return result - (0.5 * scale) * (clean - previous)
        # The two equations of UniC for its weights; the powers of phi are those of the paper, in -h.
        first = math.expm1(-step) / -step - 1
        right = first / math.expm1(-step), 2 * (first / -step - 0.5) / math.expm1(-step)
        ratio = (self.levels[index - 2].log_snr - before.log_snr) / step
        weight = (right[0] - right[1]) / (1 - ratio)
        change = (weight / ratio) * (older[0] - previous) + (right[0] - weight) * (clean - previous)
        return result - scale * change

    def _consistent(self, index: int, latents: Tensor, clean: Tensor) -> Tensor:
        """Apply the boundary condition of latent consistency models, Luo et al. 2023, with a data deviation of 0.5."""
        time = self.timesteps[index] * self.boundary
        total = time**2 + 0.25
        return (time / math.sqrt(total)) * clean + (0.25 / total) * latents

    def tail(self, share: float) -> "Schedule":
        """Return the last ``share`` of the steps, at least one, for latents noised to ``levels[0]`` of the result."""
        skipped = len(self.timesteps) - max(1, round(share * len(self.timesteps)))
        parts = {name: getattr(self, name)[skipped:] for name in ("timesteps", "levels", "reached", "through")}
        return dataclasses.replace(self, **parts)

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


def make_schedule(
    config: Mapping[str, Any], steps: int, solver: str = "ddim", *, spacing: str | None = None, eta: float = ETA
) -> Schedule:
    """Return the schedule that a ``scheduler_config.json`` and a number of steps define.

    It depends on the betas, ``prediction_type``, ``timestep_spacing`` (that of diffusers for the solver if not stated),
    ``steps_offset``, ``set_alpha_to_one``, ``rescale_betas_zero_snr``, ``final_sigmas_type``, and for ``lcm`` and
    ``tcd`` on ``original_inference_steps`` and ``timestep_scaling``. ``spacing`` replaces ``timestep_spacing``; ``eta``
    is the share of noise that ``tcd`` replaces, 0 to 1. Clipping that is not stated is off, as in diffusers' Stable
    Diffusion pipelines. Raises ModelError for a config with clipping or thresholding, and for settings of another
    solver; UsageError for an unknown solver or spacing, or a number of steps out of range.
    """
    prediction = check_settings(config, solver)
    times = make_timesteps(config, steps, solver, spacing)
    table = _table(config, solver, prediction)
    timesteps = tuple(round(time) for time in times)  # networks take whole timesteps
    levels = [_between(table, time) for time in times] if solver == "euler" else [table[time] for time in timesteps]
    final = _final(config, solver, table)
    reached = [*levels[1:], final]
    if solver == "ddim":
        back = len(table) // steps
        reached = [table[time - back] if time >= back else final for time in timesteps]
    through = reached
    if solver == "tcd":
        through = [table[math.floor((1 - eta) * time)] for time in timesteps[1:]] + [final]
    scaled = solver == "euler" and chosen_spacing(config, solver, spacing) != "leading"
    return Schedule(
        solver,
        prediction,
        timesteps,
        (*levels, final),
        tuple(reached),
        tuple(through),
        table,
        levels[0].noise if scaled else 1.0,
        number(config, "timestep_scaling", 10.0),
    )


def _table(config: Mapping[str, Any], solver: str, prediction: str) -> tuple[Level, ...]:
    """Return the level of every training timestep. Raises ModelError for levels that the solver cannot use."""
    alphas = alphas_cumprod(config)
    if SOLVERS[solver].finite and config.get("rescale_betas_zero_snr"):
        alphas[-1] = 2.0**-24  # as in diffusers, for a finite first log-SNR
    if SOLVERS[solver].finite and not bool((alphas > 0.0).all()):
        raise ModelError("scheduler_config.json: the betas leave no signal at the last timesteps")
    if prediction == "epsilon" and alphas[-1] <= 0.0:
        raise ModelError(
            "scheduler_config.json: zero terminal SNR does not work with prediction_type 'epsilon'; use 'v_prediction'"
        )
    return tuple(Level(math.sqrt(a), math.sqrt(1.0 - a)) for a in alphas.tolist())


def _final(config: Mapping[str, Any], solver: str, table: tuple[Level, ...]) -> Level:
    """Return the level after the last step, at which diffusers' schedulers leave different rests of noise."""
    if solver == "tcd":
        return table[0]
    if solver == "lcm":
        return Level(1.0, 0.0)
    if solver == "ddim":
        return Level(1.0, 0.0) if config.get("set_alpha_to_one", True) else table[0]
    return Level(1.0, 0.0) if config.get("final_sigmas_type", "zero") == "zero" else table[0]


def _between(table: tuple[Level, ...], time: float) -> Level:
    """Return the level at a fractional timestep, linear in noise over signal as in diffusers."""
    low = math.floor(time)
    if low == time:
        return table[low]
    ratios = [level.noise / level.signal for level in table[low : low + 2]]
    ratio = ratios[0] + (time - low) * (ratios[1] - ratios[0])
    signal = 1.0 / math.sqrt(1.0 + ratio**2)
    return Level(signal, ratio * signal)


def _noised(latents: Tensor, here: Level, target: Level, noise: Tensor) -> Tensor:
    """Return ``latents`` at level ``here``, noised to the level ``target``."""
    share = (target.signal / here.signal) ** 2
    return math.sqrt(share) * latents + math.sqrt(1.0 - share) * noise
