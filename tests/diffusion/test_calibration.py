"""Calibration calls cover every timestep, scene and guidance half, are reproducible, and exclude held-out calls."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from dgkit.diffusion import calibration
from dgkit.diffusion.calibration import calibrating_places, held_out_count, held_out_place, record_calls, scene_count
from dgkit.diffusion.loading import model_networks
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.diffusion.random_model import RandomModel
from dgkit.engines.spec import NETWORKS
from dgkit.engines.torch_runner import TorchRunner
from dgkit.errors import EngineError

STEPS = calibration.PRESET.steps


@pytest.mark.parametrize(("scenes", "halves"), [(3, 1), (3, 2), (5, 2), (8, 1), (8, 2)])
def test_samples_are_used_equally_often_and_held_out_ones_never(scenes: int, halves: int) -> None:
    used = Counter(place for step in range(STEPS) for place in calibrating_places(step, scenes, halves))
    held = Counter(held_out_place(step, scenes, halves) for step in range(STEPS))
    first = scenes - held_out_count(scenes)
    assert set(used) == {(scene, half) for scene in range(first) for half in range(halves)}
    assert set(held) == {(scene, half) for scene in range(first, scenes) for half in range(halves)}
    assert max(used.values()) - min(used.values()) <= 1 and max(held.values()) - min(held.values()) <= 1
    assert sum(used.values()) == STEPS * min(calibration.SAMPLES_PER_STEP, first * halves)


def test_a_large_model_generates_fewer_scenes() -> None:
    assert [scene_count(RandomModel(name).info) for name in ("tiny", "city", "sd15")] == [8, 8, 3]


def test_calls_of_a_model(like_embedded: Path) -> None:
    folder = ModelFolder(like_embedded)
    networks = model_networks(folder)
    calibrating, held_out = record_calls(folder, networks)
    times = [int(call["timestep"][0]) for call in held_out]
    assert len(set(times)) == STEPS == len(held_out) and times == sorted(times, reverse=True)
    assert [int(call["timestep"][0]) for call in calibrating] == [time for time in times for _ in range(3)]
    spec, sizes = NETWORKS["denoiser"], {**networks["denoiser"].sizes, "batch": 1}
    for call in (*calibrating, *held_out):
        tensors = spec.inputs if len(call) == len(spec.inputs) else (*spec.inputs, *spec.outputs)
        assert set(call) == {item.name for item in tensors}
        for item in tensors:
            assert call[item.name].shape == tuple(sizes[symbol] for symbol in item.shape)
            assert call[item.name].dtype == (np.int64 if item.dtype == "int64" else np.float32)
    texts = {call["text"].tobytes() for call in calibrating}
    assert len(texts) > 2 and texts & {call["text"].tobytes() for call in held_out}  # the guidance half without text
    assert not {call["latents"].tobytes() for call in calibrating} & {call["latents"].tobytes() for call in held_out}
    inputs = {
        item.name: torch.from_numpy(np.concatenate([call[item.name] for call in held_out])) for item in spec.inputs
    }
    with TorchRunner(networks["denoiser"]) as runner:
        found = runner(**inputs)["prediction"].numpy()
    np.testing.assert_allclose(found, np.concatenate([call["prediction"] for call in held_out]), atol=1e-4)


def test_the_same_calls_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_MAX_SCENES", 3)
    first, second = (model_networks(RandomModel("tiny"))["denoiser"].calibration for _ in range(2))
    assert first and second and first.facts() == second.facts()
    for one, other in zip(first.draw(), second.draw(), strict=True):
        for call, again in zip(one, other, strict=True):
            assert all(np.array_equal(call[name], again[name]) for name in call)


def test_facts_contain_everything_that_calls_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def facts(seed: int = 0) -> dict[str, int | str]:
        found = model_networks(RandomModel("tiny", seed))["denoiser"].calibration
        assert found
        return dict(found.facts())

    plain = facts()
    assert plain["calibration_scenes"] == 8 and plain["calibration_samples"] == 60
    changed = facts(1)
    assert {name for name in plain if plain[name] != changed[name]} == {"calibration_from"}  # another text encoder
    monkeypatch.setattr(calibration, "SEED", 78)
    assert facts() == {**plain, "calibration_seed": 78}


def test_values_that_are_not_finite_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_MAX_SCENES", 3)
    model = RandomModel("tiny")
    model.part("unet").get_parameter("conv_out.bias").data[0] = math.nan
    with pytest.raises(EngineError, match="not finite in fp32"):
        record_calls(model, model_networks(model))
    assert torch.isfinite(model.part("unet").get_parameter("conv_out.bias")).all()  # the part was released


def test_only_the_denoiser_can_be_calibrated() -> None:
    networks = model_networks(RandomModel("tiny"))
    assert [name for name, network in networks.items() if network.calibration] == ["denoiser"]
