"""Schedules against the schedulers of diffusers, and one step of averaged tiles against the average of steps."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from dgkit.diffusion.random_model import SD15_SCHEDULER
from dgkit.diffusion.schedule import make_schedule
from dgkit.diffusion.tiles import make_windows

pytestmark = pytest.mark.parity
BASE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
}
# Each scheduler has its own default for a spacing that the config does not state.
CASES = [
    {"prediction_type": prediction, "rescale_betas_zero_snr": zero} | ({"timestep_spacing": spacing} if spacing else {})
    for prediction, spacing, zero in product(
        ("epsilon", "v_prediction"), ("leading", "trailing", "linspace", None), (False, True)
    )
    if not (zero and prediction == "epsilon")
]


def ids(case: dict[str, Any]) -> str:
    zero = "-zero" if case["rescale_betas_zero_snr"] else ""
    return f"{case['prediction_type']}-{case.get('timestep_spacing', 'unstated')}{zero}"


def stated(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def predictions(steps: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 4, 6, 5, generator=generator, dtype=torch.float64) for _ in range(steps + 1)]


def ours(config: dict[str, Any], steps: int, solver: str, values: list[torch.Tensor]) -> list[torch.Tensor]:
    schedule = make_schedule(config, steps, solver)
    latents, last, path = values[0], None, []
    for index in range(steps):
        latents, last = schedule.step(index, latents, values[index + 1], last)
        path.append(latents)
    return path


def theirs(scheduler: Any, steps: int, values: list[torch.Tensor]) -> list[torch.Tensor]:
    scheduler.set_timesteps(steps)
    latents, path = values[0], []
    for timestep, value in zip(scheduler.timesteps, values[1:], strict=True):
        latents = scheduler.step(value, timestep, latents).prev_sample
        path.append(latents)
    return path


def assert_same_path(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for index, (a, b) in enumerate(zip(found, expected, strict=True)):
        error = float((a - b).abs().max() / b.abs().max())
        assert error < 2e-5, f"step {index}: {error}"  # diffusers computes its coefficients in float32


@pytest.mark.parametrize("case", CASES, ids=ids)
@pytest.mark.parametrize("steps", [4, 12, 20])
@pytest.mark.parametrize("to_one", [False, True, None])
@pytest.mark.parametrize("offset", [0, 1, None])
def test_ddim(case: dict[str, Any], steps: int, to_one: bool | None, offset: int | None) -> None:
    from diffusers import DDIMScheduler

    config = {**BASE, **case, **stated(steps_offset=offset, set_alpha_to_one=to_one)}
    scheduler = DDIMScheduler(**config)
    scheduler.set_timesteps(steps)
    assert make_schedule(config, steps).timesteps == tuple(scheduler.timesteps.tolist())
    values = predictions(steps, 0)
    assert_same_path(ours(config, steps, "ddim", values), theirs(scheduler, steps, values))


# diffusers converts a tensor to numpy in a way that numpy 2 warns about.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("case", CASES, ids=ids)
@pytest.mark.parametrize("steps", [1, 4, 12, 20])
@pytest.mark.parametrize("final", ["zero", "sigma_min", None])
@pytest.mark.parametrize("offset", [0, 1, None])
def test_dpm_solver(case: dict[str, Any], steps: int, final: str | None, offset: int | None) -> None:
    from diffusers import DPMSolverMultistepScheduler

    config = {**BASE, **case, **stated(steps_offset=offset, final_sigmas_type=final)}
    config.pop("clip_sample")
    scheduler = DPMSolverMultistepScheduler(**config)
    scheduler.set_timesteps(steps)
    assert make_schedule(config, steps, "dpm++2m").timesteps == tuple(scheduler.timesteps.tolist())
    values = predictions(steps, 1)
    assert_same_path(ours(config, steps, "dpm++2m", values), theirs(scheduler, steps, values))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", None])
@pytest.mark.parametrize("solver", ["ddim", "dpm++2m"])
@pytest.mark.parametrize("offset", [0, 1])
def test_timesteps_of_every_number_of_steps(solver: str, spacing: str | None, offset: int) -> None:
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    config = {**BASE, **stated(timestep_spacing=spacing), "steps_offset": offset}
    scheduler: Any = (DDIMScheduler if solver == "ddim" else DPMSolverMultistepScheduler).from_config(config)
    for steps in (*range(1, 61), 99, 100, 250):
        scheduler.set_timesteps(steps)
        assert make_schedule(config, steps, solver).timesteps == tuple(scheduler.timesteps.tolist()), steps


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_published_config_of_stable_diffusion() -> None:
    """It states no spacing: 901..91 and 999..100 differ in the noise that the first step removes."""
    from diffusers import DPMSolverMultistepScheduler

    scheduler: Any = DPMSolverMultistepScheduler.from_config(dict(SD15_SCHEDULER))
    scheduler.set_timesteps(10)
    found = make_schedule(SD15_SCHEDULER, 10, "dpm++2m").timesteps
    assert found == tuple(scheduler.timesteps.tolist()) and found[0] == 999 and found[-1] == 100


@pytest.mark.parametrize("kind", ["linear", "squaredcos_cap_v2"])
def test_other_betas(kind: str) -> None:
    from diffusers import DDIMScheduler

    config = {**BASE, "beta_schedule": kind, "prediction_type": "epsilon", "timestep_spacing": "leading"}
    config |= {"steps_offset": 1, "set_alpha_to_one": False}
    values = predictions(10, 2)
    assert_same_path(ours(config, 10, "ddim", values), theirs(DDIMScheduler(**config), 10, values))


@pytest.mark.parametrize("solver", ["ddim", "dpm++2m"])
def test_step_of_average_is_average_of_steps(solver: str) -> None:
    """It holds for a DDIM step; DPM-Solver++ also needs the average of its history."""
    schedule = make_schedule({**BASE, "steps_offset": 1}, 10, solver)
    windows = make_windows(14, 9, tile=6, stride=4)
    generator = torch.Generator().manual_seed(3)
    canvas = torch.randn(1, 4, 14, 9, generator=generator, dtype=torch.float64)
    counts = windows.counts().double()

    def average(tiles: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(canvas)
        for tile, (y, x) in zip(tiles, windows.corners, strict=True):
            total[0, :, y : y + 6, x : x + 6] += tile
        return total / counts

    whole, last = canvas, None
    parts, history = canvas, None
    for index in range(10):
        noise = torch.randn(len(windows), 4, 6, 6, generator=generator, dtype=torch.float64)
        whole, last = schedule.step(index, whole, average(noise), last)
        before = None if history is None else windows.cut(history)
        stepped, clean = schedule.step(index, windows.cut(parts), noise, before)
        parts, history = average(stepped), average(clean)
    assert float((whole - parts).abs().max()) < 1e-12
