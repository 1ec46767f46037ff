"""Schedules against the schedulers of diffusers, and one step of averaged tiles against the average of steps."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from dgkit.diffusion.random_model import SD15_SCHEDULER
from dgkit.diffusion.schedule import State, make_schedule
from dgkit.diffusion.tiles import make_windows
from dgkit.diffusion.timesteps import SOLVERS

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
        ("epsilon", "v_prediction", "sample"), ("leading", "trailing", "linspace", None), (False, True)
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


def noises() -> torch.Generator:
    return torch.Generator().manual_seed(9)


def ours(
    config: dict[str, Any], steps: int, solver: str, values: list[torch.Tensor], **options: Any
) -> list[torch.Tensor]:
    schedule, generator = make_schedule(config, steps, solver, **options), noises()
    latents, path = values[0] * schedule.start, []
    state: State = ()
    for index in range(steps):
        noise = None
        if schedule.needs_noise(index):
            noise = torch.randn(latents.shape, generator=generator, dtype=torch.float64)
        latents, state = schedule.step(index, latents, values[index + 1], state, noise)
        path.append(latents)
    return path


def theirs(scheduler: Any, steps: int, values: list[torch.Tensor], **options: Any) -> list[torch.Tensor]:
    scheduler.set_timesteps(steps)
    latents, path = values[0] * scheduler.init_noise_sigma, []
    for timestep, value in zip(scheduler.timesteps, values[1:], strict=True):
        scheduler.scale_model_input(latents, timestep)
        latents = scheduler.step(value, timestep, latents, **options).prev_sample
        path.append(latents)
    return path


def assert_same_path(found: list[torch.Tensor], expected: list[torch.Tensor], most: float = 2e-5) -> None:
    for index, (a, b) in enumerate(zip(found, expected, strict=True)):
        error = float((a - b).abs().max() / b.abs().max())
        assert error < most, f"step {index}: {error}"  # diffusers computes its coefficients in float32


def every_case(test: Any) -> Any:
    """Run ``test`` for all cases and both ends of the noise levels."""
    test = pytest.mark.parametrize("final", ["zero", "sigma_min"])(test)
    test = pytest.mark.parametrize("case", CASES, ids=ids)(test)
    return pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")(test)


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


@every_case
@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_unipc(case: dict[str, Any], steps: int, final: str) -> None:
    config = {**BASE, **case, "steps_offset": 1, "final_sigmas_type": final}
    values = predictions(steps, 4)
    assert_same_path(ours(config, steps, "unipc", values), theirs(scheduler_of("unipc", config), steps, values))


@every_case
@pytest.mark.parametrize("steps", [1, 4, 12, 20])
def test_euler(case: dict[str, Any], steps: int, final: str) -> None:
    """diffusers' latents are not scaled to the level; its timesteps may be fractions, which networks get rounded."""
    config = {**BASE, **case, "steps_offset": 1, "final_sigmas_type": final}
    scheduler, values = scheduler_of("euler", config), predictions(steps, 5)
    expected = theirs(scheduler, steps, values)
    scales = (1 + scheduler.sigmas[1:].double() ** 2).sqrt()
    scaled = [latents / scale for latents, scale in zip(expected, scales, strict=True)]
    # With zero terminal SNR diffusers' float32 latents are up to 4096 times as large as the clean ones.
    assert_same_path(ours(config, steps, "euler", values), scaled, 1e-3 if case["rescale_betas_zero_snr"] else 2e-5)
    found = torch.tensor(make_schedule(config, steps, "euler").timesteps)
    assert float((found - scheduler.timesteps).abs().max()) <= 0.5


@pytest.mark.parametrize("case", [case for case in CASES if case.get("timestep_spacing") in ("leading", None)], ids=ids)
@pytest.mark.parametrize("steps", [1, 2, 4, 8, 50])
@pytest.mark.parametrize(("solver", "eta"), [("lcm", None), ("tcd", 0.0), ("tcd", 0.3), ("tcd", 1.0)])
def test_distilled(case: dict[str, Any], steps: int, solver: str, eta: float | None) -> None:
    config, values = {**BASE, **case}, predictions(steps, 6)
    scheduler = scheduler_of(solver, config)
    expected = theirs(scheduler, steps, values, generator=noises(), **stated(eta=eta))
    assert_same_path(ours(config, steps, solver, values, **stated(eta=eta)), expected)
    assert make_schedule(config, steps, solver).timesteps == tuple(scheduler.timesteps.tolist())


def test_stated_settings_of_distilled_solvers() -> None:
    config, values = {**BASE, "original_inference_steps": 100, "timestep_scaling": 3.0}, predictions(5, 7)
    expected = theirs(scheduler_of("lcm", config), 5, values, generator=noises())
    assert_same_path(ours(config, 5, "lcm", values), expected)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_ddim_with_another_spacing_than_the_config(spacing: str) -> None:
    config, values = {**BASE, "timestep_spacing": "linspace", "steps_offset": 1}, predictions(8, 8)
    scheduler = scheduler_of("ddim", {**config, "timestep_spacing": spacing})
    assert_same_path(ours(config, 8, "ddim", values, spacing=spacing), theirs(scheduler, 8, values))


def scheduler_of(solver: str, config: dict[str, Any]) -> Any:
    import diffusers

    return getattr(diffusers, SOLVERS[solver].scheduler).from_config(config)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", None])
@pytest.mark.parametrize("solver", ["ddim", "dpm++2m", "unipc"])
@pytest.mark.parametrize("offset", [0, 1])
def test_timesteps_of_every_number_of_steps(solver: str, spacing: str | None, offset: int) -> None:
    config = {**BASE, **stated(timestep_spacing=spacing), "steps_offset": offset}
    scheduler = scheduler_of(solver, config)
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


@pytest.mark.parametrize("solver", SOLVERS)
def test_step_of_average_is_average_of_steps(solver: str) -> None:
    """It holds for every step if the windows share the noise of the canvas and the average of the solver's state."""
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

    whole, parts = canvas, canvas
    state: State = ()
    history: State = ()
    for index in range(10):
        prediction = torch.randn(len(windows), 4, 6, 6, generator=generator, dtype=torch.float64)
        fresh = torch.randn(canvas.shape, generator=generator, dtype=torch.float64)
        noise = fresh if schedule.needs_noise(index) else None
        whole, state = schedule.step(index, whole, average(prediction), state, noise)
        before = tuple(windows.cut(part) for part in history)
        own = None if noise is None else windows.cut(noise)
        stepped, after = schedule.step(index, windows.cut(parts), prediction, before, own)
        parts, history = average(stepped), tuple(average(part) for part in after)
    assert float((whole - parts).abs().max()) < 1e-12
