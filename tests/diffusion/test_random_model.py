"""Networks with random weights: right sizes, an effect of every input, and the same in every process."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from dgkit.diffusion.components import model_networks
from dgkit.diffusion.hub import embedded_model
from dgkit.diffusion.loading import load_pipeline
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.diffusion.part_config import PARTS
from dgkit.diffusion.presets import Preset
from dgkit.diffusion.random_model import RandomModel
from dgkit.diffusion.sampler import SceneRequest, sample
from dgkit.engines.onnx_export import example_inputs
from dgkit.engines.spec import NETWORKS, bind
from dgkit.errors import UsageError
from tests.models import random_networks

# Published: 859.5 million weights of the UNet, 361 of its ControlNet, 83.7 of the VAE, 123 of CLIP's text encoder.
SD15_WEIGHTS = {"unet": 859_520_964, "controlnet": 361_281_568, "vae": 83_653_863, "text_encoder": 123_060_480}
# Published: 866 million weights and 340 of OpenCLIP-H's text encoder; 2.57 billion, with 695 million of bigG's.
SD21_WEIGHTS = {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840}
SDXL_WEIGHTS = {
    "unet": 2_567_463_684,
    "vae": 83_653_863,
    "text_encoder": 123_060_480,
    "text_encoder_2": 694_659_840,
}


@pytest.mark.parametrize(("name", "weights"), [("sd15", SD15_WEIGHTS), ("sd21", SD21_WEIGHTS), ("sdxl", SDXL_WEIGHTS)])
def test_sizes_of_published_models(name: str, weights: dict[str, int]) -> None:
    model = RandomModel(name)
    assert {part: model.weight_count(part) for part in weights} == weights


def test_sizes() -> None:
    embedded, city = ModelFolder(embedded_model()), RandomModel("city")
    for part in PARTS:
        shapes = [
            {key: weight.shape for key, weight in model.part(part).named_parameters()} for model in (embedded, city)
        ]
        assert shapes[0] == shapes[1]
    assert embedded.info.symbol_sizes() == city.info.symbol_sizes()


@pytest.mark.parametrize("model", ["tiny", "tiny-sd21", "tiny-sdxl"])
def test_every_input_has_an_effect(model: str) -> None:
    networks = random_networks(model)
    assert list(networks) == list(NETWORKS)
    for name, network in networks.items():
        module, inputs = network.load(), example_inputs(network)
        first, second = (_call(module, inputs), _call(module, inputs))
        sizes = dict(network.sizes)
        for spec, value in zip(network.spec.outputs, first, strict=True):
            bind(spec, tuple(value.shape), sizes, name)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        for key, value in inputs.items():
            other = _call(module, inputs | {key: value * 2 if value.is_floating_point() else 199 - value})
            least = 0.002 if model == "tiny-sdxl" else 0.02  # the pooled text outweighs the timestep
            effects = [float((b - a).norm() / a.norm()) > least for a, b in zip(first, other, strict=True)]
            assert any(effects) if model == "tiny-sdxl" else all(effects), (name, key)


def test_weights_depend_on_name_and_seed() -> None:
    weights = [next(random_networks("tiny", seed)["condition"].load().parameters()) for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    digests = {random_networks("tiny", seed)[name].digest() for seed in (0, 0, 1) for name in NETWORKS}
    assert len(digests) == 2 * 4  # the two VAE networks share a digest, as in a folder
    script = "from dgkit.diffusion.random_model import RandomModel as M; print(M('tiny').digest('unet', 'controlnet'))"
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == random_networks("tiny")["denoiser"].digest()
    state = torch.get_rng_state()
    random_networks("tiny")["condition"].load()
    assert torch.equal(state, torch.get_rng_state())


def test_a_released_model_makes_its_parts_again() -> None:
    model = RandomModel("tiny")
    network = model_networks(model)["denoiser"]
    inputs = example_inputs(network)
    expected = _call(network.load(), inputs)[0]
    network.load().to(torch.bfloat16)
    model.release()
    assert torch.equal(_call(network.load(), inputs)[0], expected)


def test_a_pipeline_of_random_weights() -> None:
    label = np.repeat(np.repeat(np.array([[0, 2], [10, 255]], np.uint8), 32, 0), 32, 1)
    with load_pipeline("random:tiny") as pipeline:
        prompts = ("road, car", "road, car, in snowy weather.")
        assert not torch.equal(*pipeline.encode_text(prompts)["text"].unbind())
        assert pipeline.fit_prompt(", ".join(["car"] * 30))[1]
        requests = [SceneRequest(label, prompts[1], 0)]
        image = sample(pipeline, requests, Preset("quick", steps=2, large_area=2000))[0].image
    assert image.shape == (64, 64, 3) and len(np.unique(image)) > 10
    with pytest.raises(UsageError, match="unknown random model 'sd3'; known: sd15, sd21, sdxl, city, tiny"):
        load_pipeline("random:sd3")
    with pytest.raises(UsageError, match="random:tiny has its own ControlNet and cannot be combined with elsewhere"):
        load_pipeline("random:tiny", "elsewhere")


def _call(module: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        result = module(*inputs.values())
    return result if isinstance(result, tuple) else (result,)
