"""Whitening of an autoencoder's latents, folded into its 1x1 convolutions."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL

from dgkit.training.data.latents import autoencoder_input
from dgkit.training.data.rendered_scenes import SceneCache

STATISTICS_SCENES = 128  # per cache


@torch.no_grad()
def whiten(vae: AutoencoderKL, caches: Sequence[SceneCache], power: float) -> None:
    """Whiten the latents of ``vae`` in place, with the statistics of evenly spaced scenes; see ``fold_whitening``."""
    device = next(vae.parameters()).device
    posteriors = [
        vae.encode(autoencoder_input(cache.images[i : i + 1]).to(device)).latent_dist
        for cache in caches
        for i in np.linspace(0, len(cache) - 1, min(len(cache), STATISTICS_SCENES)).astype(int)
    ]
    latents = torch.cat([p.mean.flatten(2)[0] for p in posteriors], dim=1)
    variance = torch.cat([p.var.flatten(2)[0] for p in posteriors], dim=1).mean(1)
    fold_whitening(vae, latents.mean(1), torch.cov(latents), variance, power)


@torch.no_grad()
def fold_whitening(
    vae: AutoencoderKL, mean: torch.Tensor, covariance: torch.Tensor, variance: torch.Tensor, power: float = 1.0
) -> None:
    """Fold ``latent -> W (latent - mean)`` into the VAE's 1x1 convolutions, in place.

    W acts along the principal axes of the covariance: with ``power`` 1 the covariance becomes the identity, with
    ``power`` 0 it is only scaled. In between, large components (light, colour of a region) remain larger than fine
    ones, so that sampling settles them first. The mean variance of the result is 1.

    ``mean`` float32 [C], ``covariance`` float32 [C, C] and ``variance`` float32 [C] (mean variance of the posterior)
    describe the latents before. Afterwards the scaling factor is 1 and every diffusers pipeline works. Without
    whitening, colour differences are a small part of three nearly equal channels, which a diffusion model learns last.
    The variance of the posterior becomes a constant: rotated independent variances have no exact form in logarithms.
    """
    channels = len(mean)
    values, vectors = torch.linalg.eigh(covariance.double())
    wanted = values.pow((1 - power) / 2)
    scale = wanted / wanted.square().mean().sqrt() * values.rsqrt()
    whiten = (vectors * scale @ vectors.T).float()
    colour = (vectors / scale @ vectors.T).float()
    quant, post = vae.quant_conv, vae.post_quant_conv
    weight = quant.weight[:, :, 0, 0].clone()
    quant.weight[:channels, :, 0, 0] = whiten @ weight[:channels]
    quant.bias[:channels] = whiten @ (quant.bias[:channels] - mean)
    quant.weight[channels:] = 0
    quant.bias[channels:] = (whiten.square() @ variance).log()
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight[:, :, 0, 0] = post.weight[:, :, 0, 0].clone() @ colour
