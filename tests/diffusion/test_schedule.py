from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from dgkit.diffusion.schedule import State, make_schedule
from dgkit.diffusion.timesteps import SOLVERS
from dgkit.errors import ModelError, UsageError

# The scheduler config of Stable Diffusion 1.5.
SD15: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
}


def test_timesteps_and_levels_of_stable_diffusion() -> None:
    schedule = make_schedule(SD15, 20)
    assert schedule.timesteps == tuple(range(951, 0, -50))
    assert schedule.table[0].signal ** 2 == pytest.approx(0.99915, abs=1e-6)
    assert schedule.table[999].signal ** 2 == pytest.approx(0.0046601, abs=1e-7)


@pytest.mark.parametrize(
    ("timestep", "reached", "official"),
    [
        (951, 0.9930, 0.9959),
        (501, 0.8090, 0.8507),
        (251, 0.4979, 0.5711),
        (151, 0.3271, 0.4150),
        (101, 0.2224, 0.3252),
        (51, 0.0413, 0.2201),
        (1, 0.0292, 0.0292),
    ],
)
def test_noise_levels_of_the_fused_area(timestep: int, reached: float, official: float) -> None:
    schedule = make_schedule(SD15, 20)
    index = schedule.timesteps.index(timestep)
    zero, one = torch.zeros(1), torch.ones(1)
    assert schedule.fused(index, "reached", zero, one).item() == pytest.approx(reached, abs=6e-5)
    assert schedule.fused(index, "official", zero, one).item() == pytest.approx(official, abs=6e-5)
    signal = schedule.fused(index, "reached", one, zero).item()
    assert signal == pytest.approx(math.sqrt(1 - reached**2), abs=6e-4)


def test_official_fusion_never_wraps_around() -> None:
    schedule = make_schedule({**SD15, "steps_offset": 0}, 20)
    assert schedule.timesteps[-1] == 0
    with pytest.raises(ModelError, match="t - 1") as raised:
        schedule.fused(19, "official", torch.zeros(1), torch.zeros(1))
    assert "--preset exact" in raised.value.hint
    assert torch.isfinite(schedule.fused(19, "reached", torch.zeros(1), torch.ones(1))).all()


@pytest.mark.parametrize("solver", ["ddim", "dpm++2m", "unipc", "euler"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps", [1, 2, 8, 20])
def test_a_perfect_prediction_recovers_the_clean_latents(solver: str, prediction: str, steps: int) -> None:
    config = {**SD15, "prediction_type": prediction, "set_alpha_to_one": True, "timestep_spacing": "trailing"}
    schedule = make_schedule(config, steps, solver)
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(1, 4, 3, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    start = schedule.levels[0]
    latents = start.signal * clean + start.noise * noise
    state: State = ()
    for index in range(steps):
        level = schedule.levels[index]
        truths = {"epsilon": noise, "sample": clean, "v_prediction": level.signal * noise - level.noise * clean}
        latents, state = schedule.step(index, latents, truths[prediction], state)
    assert float((latents - clean).abs().max()) < 1e-9


def test_zero_terminal_snr() -> None:
    config = {**SD15, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    schedule = make_schedule(config, 12)
    assert schedule.timesteps[0] == 999 and schedule.levels[0].signal == 0.0
    x, v = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 0.5)
    assert torch.isfinite(schedule.step(0, x, v)[0]).all()


def test_the_caller_keeps_the_state() -> None:
    schedule = make_schedule(SD15, 10, "dpm++2m")
    x, e = torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.3)
    first = schedule.step(4, x, e, (torch.zeros_like(x),))[0]
    schedule.step(5, 2 * x, -e, (x,))
    assert torch.equal(schedule.step(4, x, e, (torch.zeros_like(x),))[0], first)


@pytest.mark.parametrize(
    ("change", "steps", "solver", "error", "words"),
    [
        ({"clip_sample": True}, 20, "ddim", ModelError, "clip_sample"),
        ({"thresholding": True}, 20, "ddim", ModelError, "thresholding"),
        ({"prediction_type": "flow"}, 20, "ddim", ModelError, "epsilon, v_prediction, sample"),
        ({"timestep_spacing": "log"}, 20, "ddim", ModelError, "leading, trailing, linspace"),
        ({"beta_schedule": "sigmoid"}, 20, "ddim", ModelError, "scaled_linear"),
        ({"rescale_betas_zero_snr": True}, 20, "ddim", ModelError, "zero terminal SNR does not work"),
        ({"steps_offset": "x"}, 20, "ddim", ModelError, "steps_offset is 'x'; expected a number"),
        ({"beta_start": None}, 20, "ddim", ModelError, "beta_start is None; expected a number"),
        ({"beta_end": 1e999}, 20, "ddim", ModelError, "beta_end is inf; expected a number"),
        ({"beta_end": -1}, 20, "ddim", ModelError, "not between 0 and 1"),
        ({"beta_start": 0.0}, 20, "dpm++2m", ModelError, "not between 0 and 1"),
        ({"num_train_timesteps": 10**9}, 20, "ddim", ModelError, "num_train_timesteps is 1000000000"),
        ({"num_train_timesteps": 10.5}, 20, "ddim", ModelError, "num_train_timesteps is 10.5"),
        ({"num_train_timesteps": True}, 20, "ddim", ModelError, "num_train_timesteps is True"),
        ({"trained_betas": "x"}, 20, "ddim", ModelError, "trained_betas is 'x'; expected num_train_timesteps=1000"),
        ({"trained_betas": [0.1]}, 20, "ddim", ModelError, r"trained_betas is \[0.1\]"),
        ({"trained_betas": [[0.1]] * 1000}, 20, "ddim", ModelError, "trained_betas"),
        ({"prediction_type": ["epsilon"]}, 20, "ddim", ModelError, r"prediction_type \['epsilon'\]"),
        ({"beta_schedule": {}}, 20, "ddim", ModelError, "beta_schedule {}"),
        ({"use_karras_sigmas": True}, 20, "dpm++2m", ModelError, "use_karras_sigmas is True, which solver"),
        ({"solver_order": 3}, 20, "dpm++2m", ModelError, "solver_order is 3"),
        ({"algorithm_type": "sde-dpmsolver++"}, 20, "dpm++2m", ModelError, "algorithm_type is 'sde"),
        ({"lambda_min_clipped": -5.1}, 20, "dpm++2m", ModelError, "lambda_min_clipped is -5.1"),
        ({"beta_start": 0.9, "beta_end": 0.99}, 20, "dpm++2m", ModelError, "leave no signal"),
        ({"steps_offset": 60}, 20, "ddim", ModelError, "steps_offset 60"),
        ({}, 0, "ddim", UsageError, "1 to 999"),
        ({}, 1000, "ddim", UsageError, "1 to 999"),
        ({}, 20, "heun", UsageError, "ddim, dpm[+][+]2m"),
        ({"solver_type": "bh1"}, 20, "unipc", ModelError, "solver_type is 'bh1', which solver unipc"),
        ({"predict_x0": False}, 20, "unipc", ModelError, "predict_x0 is False"),
        ({"interpolation_type": "log_linear"}, 20, "euler", ModelError, "interpolation_type"),
        ({"timestep_type": "continuous"}, 20, "euler", ModelError, "timestep_type"),
        ({}, 51, "lcm", UsageError, "1 to 50"),
        ({"original_inference_steps": 2000}, 8, "tcd", UsageError, "1 to 1000"),
        ({"original_inference_steps": "x"}, 8, "tcd", ModelError, "original_inference_steps is 'x'"),
        ({"timestep_scaling": None}, 8, "lcm", ModelError, "timestep_scaling is None"),
    ],
)
def test_wrong_configs(change: dict[str, Any], steps: int, solver: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make_schedule({**SD15, **change}, steps, solver)


def test_trained_betas() -> None:
    assert len(make_schedule({"trained_betas": [0.01, 0.02, 0.03], "num_train_timesteps": 3}, 2).table) == 3


@pytest.mark.parametrize(
    ("solver", "spacing", "words"),
    [("ddim", "log", "known: leading, trailing, linspace"), ("lcm", "trailing", "solver lcm has timesteps of its own")],
)
def test_wrong_spacings(solver: str, spacing: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_schedule(SD15, 4, solver, spacing=spacing)


def test_only_solvers_that_add_noise_need_it() -> None:
    needs = {solver: [make_schedule(SD15, 3, solver).needs_noise(i) for i in range(3)] for solver in SOLVERS}
    expected = {"lcm": [True, True, False], "tcd": [True, True, False]}
    assert needs == {solver: expected.get(solver, [False] * 3) for solver in SOLVERS}
    assert not make_schedule(SD15, 3, "tcd", eta=0.0).needs_noise(0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_tail_is_the_end_of_the_schedule(solver: str) -> None:
    schedule = make_schedule(SD15, 10, solver)
    assert schedule.tail(1.0) == schedule
    tail = schedule.tail(0.4)
    assert tail.timesteps == schedule.timesteps[6:] and tail.reached == schedule.reached[6:]
    assert len(tail.levels) == 5 and tail.levels[-1] == schedule.levels[-1]
    assert len(schedule.tail(0.01).timesteps) == 1


@pytest.mark.parametrize("solver", ["ddim", "dpm++2m", "unipc", "euler"])
def test_tail_recovers_the_clean_latents(solver: str) -> None:
    config = {**SD15, "set_alpha_to_one": True, "timestep_spacing": "trailing"}
    tail = make_schedule(config, 10, solver).tail(0.5)
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(1, 4, 3, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    latents = tail.levels[0].signal * clean + tail.levels[0].noise * noise
    state: State = ()
    for index in range(len(tail.timesteps)):
        latents, state = tail.step(index, latents, noise, state)
    assert float((latents - clean).abs().max()) < 1e-9
