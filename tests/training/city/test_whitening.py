"""Whitening folded into the autoencoder is exact."""

import torch

from dgkit.training.city.small_networks import LATENT_CHANNELS, build_vae
from dgkit.training.city.whitening import fold_whitening


def test_folded_whitening_gives_white_latents_and_the_same_images():
    torch.manual_seed(0)
    vae = build_vae(64).requires_grad_(False)
    images = torch.rand(6, 3, 64, 64).mul_(2).sub_(1).cumsum(-1).div_(8).tanh_()
    before = vae.encode(images).latent_dist
    decoded = vae.decode(before.mean).sample
    latents = before.mean.transpose(0, 1).flatten(1)
    fold_whitening(vae, latents.mean(1), torch.cov(latents), before.var.mean((0, 2, 3)))
    after = vae.encode(images).latent_dist
    white = after.mean.transpose(0, 1).flatten(1)
    assert white.mean(1).abs().max() < 1e-4
    assert torch.allclose(torch.cov(white), torch.eye(LATENT_CHANNELS), atol=1e-3)
    assert torch.allclose(vae.decode(after.mean).sample, decoded, atol=1e-3)
    assert after.var.min() > 0
