"""The solvers by name: their timesteps for a number of steps, and the scheduler settings that they support.

Each follows the scheduler of diffusers named in :data:`SOLVERS`.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dgkit.errors import ModelError, UsageError, did_you_mean, shown

SPACINGS = ("leading", "trailing", "linspace")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
ETA = 0.3  # that of diffusers' TCDScheduler
DISTILLED_STEPS = 50  # diffusers' original_inference_steps: timesteps that consistency models are distilled for
_MOST_TIMESTEPS = 100_000

_OFF = (False, None)
_SIGMAS: dict[str, tuple[Any, ...]] = {
    "use_karras_sigmas": _OFF,
    "use_exponential_sigmas": _OFF,
    "use_beta_sigmas": _OFF,
}
_MULTISTEP = {
    **_SIGMAS,
    "solver_order": (2,),
    "lower_order_final": (True,),
    "use_flow_sigmas": _OFF,
    "use_dynamic_shifting": _OFF,
}


@dataclass(frozen=True)
class Solver:
    """A solver: the scheduler of diffusers that it follows, and what it does with a scheduler config.

    ``spacing``: diffusers' spacing where the config states none; None: the solver has timesteps of its own.
    ``times(total, steps, spacing, offset)`` returns the descending timesteps. ``allowed``: values by setting, of the
    settings that change solver or noise levels. ``finite``: it needs some signal at the last timestep.
    """

    scheduler: str
    spacing: str | None
    times: Callable[[int, int, str, int], tuple[float, ...]]
    allowed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    finite: bool = False


def _single_step_times(total: int, steps: int, spacing: str, offset: int) -> tuple[int, ...]:
    times: np.ndarray
    if spacing == "linspace":
        times = np.linspace(0, total - 1, steps).round()[::-1]
    elif spacing == "leading":
        times = (np.arange(steps) * (total // steps))[::-1] + offset
    else:
        times = np.round(np.arange(total, 0, -total / steps)) - 1
    return tuple(int(t) for t in times)


def _multistep_times(total: int, steps: int, spacing: str, offset: int) -> tuple[int, ...]:
    times: np.ndarray
    if spacing == "linspace":
        times = np.linspace(0, total - 1, steps + 1).round()[::-1][:-1]
    elif spacing == "leading":
        times = (np.arange(steps + 1) * (total // (steps + 1)))[::-1][:-1] + offset
    else:
        times = np.arange(total, 0, -total / steps).round() - 1
    return tuple(int(t) for t in times)


def _euler_times(total: int, steps: int, spacing: str, offset: int) -> tuple[float, ...]:
    """Return the timesteps, which are fractions for ``linspace``."""
    if spacing == "linspace":
        return tuple(np.linspace(0, total - 1, steps, dtype=np.float32)[::-1].tolist())
    return _single_step_times(total, steps, spacing, offset)


def _distilled_times(total: int, steps: int, _: str, original: int) -> tuple[int, ...]:
    """Return ``steps`` of the ``original`` timesteps that a consistency model is distilled for."""
    if not steps <= original <= total:
        raise UsageError(
            f"{steps} steps; allowed with solvers lcm and tcd: 1 to {min(original, total)} "
            "(original_inference_steps of the scheduler config)",
            "use for example --steps 4",
        )
    every = (np.arange(1, original + 1) * (total // original) - 1)[::-1]
    chosen = np.floor(np.linspace(0, original, num=steps, endpoint=False)).astype(int)
    return tuple(int(t) for t in every[chosen])


SOLVERS = {
    "ddim": Solver("DDIMScheduler", "leading", _single_step_times),
    "dpm++2m": Solver(
        "DPMSolverMultistepScheduler",
        "linspace",
        _multistep_times,
        {
            **_MULTISTEP,
            "algorithm_type": ("dpmsolver++", "deis"),  # diffusers also reads DEIS and UniPC configs in this way
            "solver_type": ("midpoint", "logrho", "bh1", "bh2"),
            "euler_at_final": (False,),
            "use_lu_lambdas": _OFF,
            "lambda_min_clipped": (-math.inf,),
            "variance_type": (None, "fixed_small", "fixed_large"),
        },
        finite=True,
    ),
    "unipc": Solver(
        "UniPCMultistepScheduler",
        "linspace",
        _multistep_times,
        {
            **_MULTISTEP,
            "solver_type": ("bh2", "midpoint", "heun", "logrho"),  # all but bh1 are bh2 to diffusers
            "predict_x0": (True,),
            "disable_corrector": ([],),
        },
        finite=True,
    ),
    "euler": Solver(
        "EulerDiscreteScheduler",
        "linspace",
        _euler_times,
        {
            **_SIGMAS,
            "interpolation_type": ("linear",),
            "timestep_type": ("discrete",),
            "sigma_min": (None,),
            "sigma_max": (None,),
        },
        finite=True,
    ),
    "lcm": Solver("LCMScheduler", None, _distilled_times),
    "tcd": Solver("TCDScheduler", None, _distilled_times),
}


def find_solver(name: str) -> Solver:
    """Return the solver called ``name``. Raises UsageError for an unknown one."""
    if name not in SOLVERS:
        hint = did_you_mean(name, SOLVERS, "use for example --preset exact:solver=ddim")
        raise UsageError(f"unknown solver {shown(name)}; known: {', '.join(SOLVERS)}", hint)
    return SOLVERS[name]


def chosen_spacing(config: Mapping[str, Any], solver: str, spacing: str | None = None) -> str | None:
    """Return the spacing of the timesteps: ``spacing``, else the config's, else diffusers' for ``solver``.

    None for a solver with timesteps of its own. Raises UsageError for a ``spacing`` that is unknown or not used,
    ModelError for an unknown one of the config.
    """
    own = find_solver(solver).spacing
    if spacing is not None and (own is None or spacing not in SPACINGS):
        problem = f"solver {solver} has timesteps of its own" if own is None else f"known: {', '.join(SPACINGS)}"
        raise UsageError(f"timestep spacing {shown(spacing)}; {problem}", "leave it out, or use for example trailing")
    found = config.get("timestep_spacing", own)
    if own is not None and found not in SPACINGS:
        raise ModelError(f"scheduler_config.json: timestep_spacing {shown(found)}; supported: {', '.join(SPACINGS)}")
    return None if own is None else spacing or found


def make_timesteps(config: Mapping[str, Any], steps: int, solver: str, spacing: str | None) -> tuple[float, ...]:
    """Return the descending timesteps; fractions are possible for ``euler``. ``spacing`` as in :func:`chosen_spacing`.

    Raises UsageError for a number of steps out of range, ModelError for timesteps out of range.
    """
    total = training_timesteps(config)
    if not 1 <= steps < total:
        raise UsageError(f"{steps} steps; allowed: 1 to {total - 1}", "use for example --set steps=20")
    used = chosen_spacing(config, solver, spacing)
    key, default = ("steps_offset", 0) if used else ("original_inference_steps", DISTILLED_STEPS)
    offset = int(number(config, key, default))
    found = find_solver(solver).times(total, steps, used or "", offset)
    if max(found) >= total or min(found) < 0:
        raise ModelError(f"scheduler_config.json: {key} {offset} with {steps} steps exceeds {total} training timesteps")
    return found


def check_settings(config: Mapping[str, Any], solver: str) -> str:
    """Return the prediction type of a scheduler config.

    Raises ModelError for an unknown one, for clipping or thresholding, which are not linear, and for a setting that
    ``solver`` does not support.
    """
    allowed = find_solver(solver).allowed
    prediction = config.get("prediction_type", "epsilon")
    if not isinstance(prediction, str) or prediction not in PREDICTIONS:
        known = ", ".join(PREDICTIONS)
        raise ModelError(f"scheduler_config.json: prediction_type {shown(prediction)}; supported: {known}")
    for key in ("clip_sample", "thresholding"):
        if config.get(key):
            raise ModelError(f"scheduler_config.json: {key} is not supported; set it to false")
    for key, values in allowed.items():
        if key in config and config[key] not in values:
            raise ModelError(
                f"scheduler_config.json: {key} is {shown(config[key])}, which solver {solver} does not support",
                f"set it to {json.dumps(values[0])}, or use a preset with solver=ddim",
            )
    return prediction


def number(config: Mapping[str, Any], key: str, default: float) -> float:
    """Return a number of a scheduler config. Raises ModelError for any other value."""
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
        raise ModelError(f"scheduler_config.json: {key} is {shown(value)}; expected a number")
    return value


def training_timesteps(config: Mapping[str, Any]) -> int:
    """Return the number of training timesteps. Raises ModelError unless it is a whole number in range."""
    total = number(config, "num_train_timesteps", 1000)
    if total != int(total) or not 2 <= total <= _MOST_TIMESTEPS:
        raise ModelError(f"scheduler_config.json: num_train_timesteps is {total}; expected 2 to {_MOST_TIMESTEPS}")
    return int(total)
