from __future__ import annotations

import pytest
import torch

from dgkit.diffusion.loading import model_networks
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.engines.modules import Condition, Denoiser, VaeEncoder, cast, without_condition_embedding
from dgkit.engines.onnx_export import example_inputs
from dgkit.engines.runner import Network
from dgkit.engines.spec import NETWORKS
from dgkit.engines.torch_runner import TorchRunner


@pytest.mark.parametrize("name", NETWORKS)
def test_modules_match_their_spec(folder: ModelFolder, name: str) -> None:
    network = model_networks(folder)[name]
    with TorchRunner(network) as runner:
        outputs = runner(**example_inputs(network, batch=3))
    assert list(outputs) == [spec.name for spec in network.spec.outputs]
    assert all(value.shape[0] == 3 and torch.isfinite(value).all() for value in outputs.values())


def denoiser_inputs(network: Network) -> list[torch.Tensor]:
    return list(example_inputs(network).values())


@torch.no_grad()
def test_denoiser_is_controlnet_then_unet(folder: ModelFolder) -> None:
    unet, controlnet = folder.part("unet"), folder.part("controlnet")
    network = model_networks(folder)["denoiser"]
    latents, timestep, text, _, _ = denoiser_inputs(network)
    onehot = example_inputs(model_networks(folder)["condition"])["label"]
    condition = Condition(controlnet)(onehot)
    joint = Denoiser(unet, controlnet)
    for scale in (0.0, 0.5, 1.0):
        down, middle = controlnet(latents, timestep, text, onehot, conditioning_scale=scale, return_dict=False)
        expected = unet(
            latents, timestep, text, down_block_additional_residuals=down, mid_block_additional_residual=middle
        ).sample
        assert torch.allclose(joint(latents, timestep, text, condition, torch.full((2,), scale)), expected, atol=1e-5)
    mixed = joint(latents, timestep, text, condition, torch.tensor([0.0, 1.0]))
    assert torch.allclose(mixed[0], unet(latents, timestep, text).sample[0], atol=1e-5)
    assert (mixed[1] - unet(latents, timestep, text).sample[1]).abs().max() > 1e-2


def test_controlnet_is_not_changed(folder: ModelFolder) -> None:
    controlnet = folder.part("controlnet")
    before = dict(controlnet.named_parameters())
    bare = without_condition_embedding(controlnet)
    assert dict(controlnet.named_parameters()).keys() == before.keys()
    assert {id(p) for p in bare.parameters()} < {id(p) for p in controlnet.parameters()}
    assert type(controlnet.controlnet_cond_embedding) is not torch.nn.Identity


@torch.no_grad()
def test_vae_encoder_is_the_posterior(folder: ModelFolder) -> None:
    vae = folder.part("vae")
    image = example_inputs(model_networks(folder)["vae_encoder"])["image"]
    mean, logvar = VaeEncoder(vae)(image)
    posterior = vae.encode(image).latent_dist
    assert torch.equal(mean, posterior.mean) and torch.equal(logvar, posterior.logvar)
    assert VaeEncoder(vae)(image * 1e6)[1].abs().max() <= 30


@pytest.mark.parametrize(("dtype", "bound"), [("bf16", 0.05), ("fp16", 0.01)])
def test_precision(folder: ModelFolder, dtype: str, bound: float) -> None:
    predictions = []
    for name in ("fp32", dtype):
        network = model_networks(ModelFolder(folder.root))["denoiser"]
        with TorchRunner(network, dtype=name) as runner:
            predictions.append(runner(**example_inputs(network))["prediction"])
    assert predictions[1].dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    error = float((predictions[0] - predictions[1].float()).norm() / predictions[0].norm())
    assert 0 < error < bound


def test_cast_freezes(folder: ModelFolder) -> None:
    module = cast(Condition(folder.part("controlnet")), torch.device("cpu"), torch.bfloat16)
    assert not any(p.requires_grad for p in module.parameters()) and not module.training
    assert all(p.dtype == torch.bfloat16 for p in module.parameters())
