"""Samples are functions of their index; batches have the precision of the frozen networks."""

import numpy as np
import pytest
import torch

from dgkit.errors import InputError
from dgkit.training.data.feed import Example
from dgkit.training.diffusion.diffusion_recipes import Objective
from dgkit.training.diffusion.noising import Noising
from dgkit.training.diffusion.starting_model import find_training_model
from tests.models import make_micro_model

SCALE = 0.5  # the micro model's scaling factor


class OneFeed:
    """Plain images, or constant latents without deviation; the label is the number drawn."""

    def __init__(self, latents: bool = False, label: bool = True) -> None:
        self.latents, self.label = latents, label

    def draw(self, rng):
        number = int(rng.integers(19))
        label = np.full((64, 64), number, np.uint8) if self.label else None
        if self.latents:
            return Example(None, (np.full((4, 8, 8), 2.0, np.float32), np.zeros((4, 8, 8), np.float32)), label, "road")
        return Example(np.full((64, 64, 3), number, np.uint8), None, label, "road", source="here")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return find_training_model(str(make_micro_model(tmp_path_factory.mktemp("noising"), with_controlnet=False)))


def _noising(model, feed, **changes):
    return Noising(model, feed, Objective(), **{"seed": 3, "labels": True, **changes})


def _batch(noising, count=3):
    samples = [noising.sample(i) for i in range(count)]
    return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}


def test_a_sample_is_a_function_of_seed_and_index(model):
    noising, again, other = (_noising(model, OneFeed(), seed=seed) for seed in (3, 3, 4))
    first = noising.sample(5)
    noising.sample(1)
    for sample, equal in ((noising.sample(5), True), (again.sample(5), True), (other.sample(5), False)):
        assert torch.equal(sample["noise"], first["noise"]) == equal
        assert sample.keys() == first.keys()


def test_cached_latents_are_scaled_and_noised_at_their_timestep(model):
    noising = _noising(model, OneFeed(latents=True))
    batch = _batch(noising)
    assert torch.allclose(batch["latents"], torch.tensor(2.0 * SCALE))
    noised = noising.batch(batch)
    alpha = noising.schedule.alphas_cumprod[batch["timestep"]].reshape(-1, 1, 1, 1)
    assert torch.allclose(noised.latents, alpha.sqrt() * 2.0 * SCALE + (1 - alpha).sqrt() * batch["noise"], atol=1e-5)
    assert torch.equal(noised.target, batch["noise"])
    assert noised.text.shape == (3, 77, 16)


def test_images_are_encoded_and_sampled_from_their_posterior(model):
    noising = _noising(model, OneFeed())
    batch = _batch(noising)
    pixels = batch["image"].float() / 127.5 - 1
    with torch.no_grad():
        posterior = noising.vae.encode(pixels).latent_dist
    expected = (posterior.mean + posterior.std * batch["posterior"]) * SCALE
    alpha = noising.schedule.alphas_cumprod[batch["timestep"]].reshape(-1, 1, 1, 1)
    noised = noising.batch(batch)
    assert torch.allclose(noised.latents, alpha.sqrt() * expected + (1 - alpha).sqrt() * batch["noise"], atol=1e-4)


def test_the_condition_is_the_one_hot_label(model):
    noising = _noising(model, OneFeed())
    batch = _batch(noising)
    condition = noising.batch(batch).condition
    assert condition.shape == (3, 20, 64, 64)
    assert torch.equal(condition.argmax(1).to(torch.uint8), batch["label"])
    assert _noising(model, OneFeed(), labels=False).batch(batch).condition is None


def test_frozen_networks_have_the_precision_and_the_target_is_float32(model):
    noising = _noising(model, OneFeed(), precision="bf16")
    noised = noising.batch(_batch(noising))
    assert {noised.latents.dtype, noised.text.dtype, noised.condition.dtype} == {torch.bfloat16}
    assert {noised.target.dtype, noised.weights.dtype} == {torch.float32}
    assert noising.text.encoder.dtype == noising.vae.dtype == torch.bfloat16


def test_a_feed_without_label_maps_is_refused(model):
    with pytest.raises(InputError, match="here has no label map"):
        _noising(model, OneFeed(label=False)).sample(0)


def test_cached_text_is_encoded_once_and_equals_uncached_text_in_float16(model, tmp_path, monkeypatch):
    plain, cached = _noising(model, OneFeed()), _noising(model, OneFeed(), text_cache=tmp_path)
    calls = []
    embed = cached.text.packed
    monkeypatch.setattr(cached.captions, "encode", lambda captions: calls.append(captions) or embed(captions))
    batch = _batch(cached)
    assert calls == [["road"]]
    assert torch.allclose(cached.batch(batch).text, plain.batch(_batch(plain)).text, atol=2e-3)
    again = _noising(model, OneFeed(), text_cache=tmp_path)
    monkeypatch.setattr(again.captions, "encode", None)
    assert torch.equal(again.sample(0)["text"], batch["text"][0])
