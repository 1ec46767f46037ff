"""The calls that are counted are those that the sampler makes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from torch import Tensor

from dgkit.bench.image_work import ImageWork
from dgkit.bench.network_speed import count_flops
from dgkit.diffusion.components import model_networks
from dgkit.diffusion.loading import load_pipeline, open_model
from dgkit.diffusion.presets import find_preset
from dgkit.diffusion.sampler import SceneRequest, sample

TINY = "random:tiny"


def label_of(size: int, *, small: bool) -> np.ndarray:
    label = np.zeros((size, size), np.uint8)
    if small:
        label[size // 4 : size // 2, size // 4 : size // 2] = 5
    return label


@pytest.mark.parametrize("preset", ["one-pass", "exact", "fast", "exact:bridge=latent"])
@pytest.mark.parametrize("small", [False, True])
def test_calls_are_those_of_the_sampler(preset: str, small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = find_preset(f"{preset}{',' if ':' in preset else ':'}steps=2,large_area=40000")
    pipeline, made = load_pipeline(TINY), Counter()
    for name, runner in pipeline.runners.items():
        image = name == "vae_encoder"

        def run(tensors: dict[str, Tensor], name: str = name, image: bool = image, inner=runner._run):
            first = next(iter(tensors.values()))
            if name != "text_encoder":
                factor = pipeline.vae_factor if image or name == "condition" else 1
                made[name, first.shape[2] // factor, first.shape[3] // factor] += len(first)
            return inner(tensors)

        monkeypatch.setattr(runner, "_run", run)
    label = label_of(2 * pipeline.size, small=small)
    with pipeline:
        sample(pipeline, [SceneRequest(label, "road", 0)], settings)
    assert ImageWork(open_model(TINY), settings).calls(label) == made


def test_operations_are_calls_times_those_of_a_call() -> None:
    model = open_model(TINY)
    label = label_of(model.info.size, small=False)
    work = ImageWork(model, find_preset("one-pass:steps=3,guidance_scale=1"))
    networks = model_networks(model)
    each = {
        name: count_flops(networks[name], networks[name].load()) for name in ("denoiser", "condition", "vae_decoder")
    }
    expected = 3 * each["denoiser"] + each["condition"] + each["vae_decoder"]
    assert work.mean([label, label]) == pytest.approx(expected)
