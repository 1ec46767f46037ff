"""Autoencoder stage: train on crops of rendered scenes, whiten the latents, cache the scenes' latents."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.lib.format import open_memmap
from torch import Tensor

from dgkit.training.loop import Progress, adamw, train
from dgkit.training.networks import VAE_FACTOR, build_vae, fold_whitening
from dgkit.training.recipe import VaeStage
from dgkit.training.scenes import SceneCache

STATISTICS_SCENES = 128


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 [B,H,W,3] RGB -> float32 [B,3,H,W] in [-1, 1], channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def crops(caches: Sequence[SceneCache], size: int, batch: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ``batch`` random crops, uint8 [B,size,size,3], from caches chosen by their number of scenes."""
    weights = np.array([len(cache) for cache in caches], float)
    out = np.empty((batch, size, size, 3), np.uint8)
    for i in range(batch):
        cache = caches[rng.choice(len(caches), p=weights / weights.sum())]
        n, height, width = cache.labels.shape
        y, x = rng.integers(height - size + 1), rng.integers(width - size + 1)
        crop = cache.images[rng.integers(n), y : y + size, x : x + size]
        out[i] = crop[:, ::-1] if rng.random() < 0.5 else crop
    return out


def reconstruction_loss(output: Tensor, target: Tensor, stage: VaeStage) -> Tensor:
    """L1 + gradient L1 + chroma L1 of float32 [B,3,H,W] in [-1, 1]; scalar.

    The chroma term, |d(R-G)| + |d(B-G)|, keeps small reds and greens that L1 alone greys out.
    """
    error = output - target
    horizontal = (error[..., :, 1:] - error[..., :, :-1]).abs().mean()
    vertical = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    red, green, blue = error.unbind(1)
    chroma = (red - green).abs().mean() + (blue - green).abs().mean()
    return error.abs().mean() + stage.gradient * (horizontal + vertical) + stage.chroma * chroma


def train_vae(
    folder: Path, caches: Sequence[SceneCache], stage: VaeStage, seed: int, size: int, progress: Progress | None
) -> AutoencoderKL:
    """Train in ``folder`` (resumable), fold the latents' normalisation in, and return the autoencoder in eval mode."""
    torch.manual_seed(seed)
    vae = build_vae(size).to(memory_format=torch.channels_last).train()

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng([seed, 2, step])
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        target = to_tensor(crops(caches, stage.crop, stage.batch, rng))
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(target).latent_dist
            output = vae.decode(posterior.sample(generator=noise)).sample
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return reconstruction_loss(output.float(), target, stage) + stage.kl * divergence

    def figures(step: int) -> dict[str, float]:
        return {"psnr": psnr(vae, caches, stage.crop, seed)}

    train("vae", vae, adamw(vae, stage), loss_at, stage, folder, progress, figures)
    vae.eval().requires_grad_(False)
    fold_whitening(vae, *latent_statistics(vae, caches), stage.whitening)
    return vae


@torch.no_grad()
def psnr(vae: AutoencoderKL, caches: Sequence[SceneCache], size: int, seed: int) -> float:
    """Peak signal-to-noise ratio, dB, of 32 fixed crops decoded from their mean latents."""
    target = to_tensor(crops(caches, size, 32, np.random.default_rng([seed, 3])))
    with torch.autocast("cpu", torch.bfloat16):
        output = vae.decode(vae.encode(target).latent_dist.mean).sample
    return float(10 * torch.log10(4 / (output.float().clamp(-1, 1) - target).square().mean()))


@torch.no_grad()
def latent_statistics(vae: AutoencoderKL, caches: Sequence[SceneCache]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [C] and covariance [C, C] of the latents and mean posterior variance [C], over evenly spaced scenes."""
    posteriors = [
        vae.encode(to_tensor(cache.images[i : i + 1])).latent_dist
        for cache in caches
        for i in np.linspace(0, len(cache) - 1, min(len(cache), STATISTICS_SCENES)).astype(int)
    ]
    latents = torch.cat([p.mean.flatten(2)[0] for p in posteriors], dim=1)
    variance = torch.cat([p.var.flatten(2)[0] for p in posteriors], dim=1).mean(1)
    return latents.mean(1), torch.cov(latents), variance


@torch.no_grad()
def cache_latents(vae: AutoencoderKL, cache: SceneCache, path: Path) -> np.ndarray:
    """Mean latents of every scene, float16 [N,C,H/8,W/8], computed once and kept at ``path``."""
    if path.exists():
        return np.load(path)
    n, height, width = cache.labels.shape
    shape = (n, vae.config.latent_channels, height // VAE_FACTOR, width // VAE_FACTOR)
    temporary = path.with_name(path.name + ".tmp")
    latents = open_memmap(temporary, "w+", np.float16, shape)
    for first in range(0, n, 4):
        with torch.autocast("cpu", torch.bfloat16):
            mean = vae.encode(to_tensor(cache.images[first : first + 4])).latent_dist.mean
        latents[first : first + 4] = mean.float().numpy().astype(np.float16)
    latents.flush()
    temporary.rename(path)
    return np.load(path)
