"""The decoder stage learns to remove noise from latents and changes nothing but the decoder."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from dgkit.errors import InputError
from dgkit.training.city.city_recipe import DecoderStage
from dgkit.training.city.decoder import DecoderTask, train_decoder
from dgkit.training.city.small_networks import build_vae
from dgkit.training.data.feed import Example

SIDE = 32


class PlainImages:
    """Images of one colour each with their latents; optionally without the images."""

    def __init__(self, vae: AutoencoderKL, images: bool = True) -> None:
        self.vae, self.images = vae, images

    def draw(self, rng):
        image = np.broadcast_to(rng.integers(0, 256, 3).astype(np.uint8), (SIDE, SIDE, 3))
        pixels = torch.tensor(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            mean = self.vae.encode(pixels).latent_dist.mean[0].numpy()
        return Example(image if self.images else None, (mean, np.zeros_like(mean)), None, "", source="plain")


def _stage(**changes):
    return DecoderStage(**{"steps": 4, "batch": 4, "crop": SIDE, "warmup": 0, "precision": "fp32", **changes})


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return build_vae(SIDE).requires_grad_(False)


def test_the_noise_has_the_level_of_the_recipe(vae):
    feed = PlainImages(vae)
    exact, noised = (DecoderTask(vae, feed, _stage(noise=noise), seed=1) for noise in (0.0, 0.5))
    errors = [(noised.sample(i)["latents"] - exact.sample(i)["latents"]).std() for i in range(60)]
    assert float(torch.stack(errors).max()) == pytest.approx(0.5, abs=0.1)
    assert float(torch.stack(errors).mean()) == pytest.approx(0.25, abs=0.06)
    assert torch.equal(noised.sample(7)["image"], exact.sample(7)["image"])


def test_training_lowers_the_loss_and_keeps_the_encoder(vae, tmp_path):
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    stage = _stage(steps=30, lr=5e-4, ema=0.0, noise=0.3, validate_every=30)
    task = DecoderTask(vae, PlainImages(vae), stage, seed=0)

    def loss():
        samples = [task.sample(1000 + i) for i in range(8)]
        with torch.no_grad():
            return float(task.loss(vae.decoder, {k: torch.stack([s[k] for s in samples]) for k in samples[0]}))

    first = loss()
    trained = train_decoder(vae, PlainImages(vae), stage, tmp_path, 0)
    assert loss() < 0.9 * first
    changed = {name for name, tensor in trained.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.split(".")[0] for name in changed} == {"decoder"}
    assert "30,psnr_0.3," in (tmp_path / "validation.csv").read_text()
    assert not any(parameter.requires_grad for parameter in trained.parameters())


def test_a_feed_without_images_is_refused(vae):
    with pytest.raises(InputError, match="plain has no image"):
        DecoderTask(vae, PlainImages(vae, images=False), _stage(), seed=0).sample(0)
