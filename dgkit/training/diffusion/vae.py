"""Training an autoencoder on pictures, whitening its latents, caching the latents of rendered scenes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from dgkit.errors import InputError
from dgkit.files import atomic_path
from dgkit.training.city.small_networks import VAE_FACTOR, fold_whitening
from dgkit.training.data.feed import Feed
from dgkit.training.data.rendered_scenes import SceneCache
from dgkit.training.diffusion.losses import kl_loss, psnr, reconstruction_loss

STATISTICS_SCENES = 128


def to_tensor(images: np.ndarray) -> Tensor:
    """uint8 [B,H,W,3] RGB -> float32 [B,3,H,W] in [-1, 1], channels last in memory."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


class Autoencoder(nn.Module):
    """Encoder, posterior draw and decoder as one network, so that several processes share the gradients of all."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Image [B,3,H,W], noise [B,C,h,w] -> the image decoded from ``mean + std * noise``; mean; log variance."""
        posterior = self.vae.encode(image).latent_dist
        latents = posterior.mean + posterior.std * noise.to(posterior.mean.dtype)
        return self.vae.decode(latents).sample, posterior.mean, posterior.logvar


class VaeTask:
    """Trains ``vae`` in place on the images of ``feed``: L1 + gradient + chroma + KL, each with its weight.

    A validation gives the PSNR of ``checked`` fixed crops decoded from their mean latents.
    """

    name = "vae"
    parameter_scale = ("", 1.0)

    def __init__(
        self,
        vae: AutoencoderKL,
        feed: Feed,
        *,
        seed: int,
        gradient: float,
        chroma: float,
        kl: float,
        checked: int = 32,
    ) -> None:
        self.vae, self.feed, self.seed, self.checked = vae, feed, seed, checked
        self.gradient, self.chroma, self.kl = gradient, chroma, kl
        self.identity = {"seed": seed, "gradient": gradient, "chroma": chroma, "kl": kl}
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.module: nn.Module = Autoencoder(vae.to(memory_format=torch.channels_last).train().requires_grad_(True))

    def sample(self, index: int) -> dict[str, Tensor]:
        """``image`` float32 [3,S,S] in [-1, 1]; ``noise`` float32 [C,s,s] of the posterior draw."""
        return self._draw(np.random.default_rng([self.seed, index]))

    def _draw(self, rng: np.random.Generator) -> dict[str, Tensor]:
        example = self.feed.draw(rng)
        if example.image is None:
            raise InputError(f"{example.source} has no image", "an autoencoder is trained on images, not on latents")
        side = example.image.shape[0] // self.factor
        noise = rng.standard_normal((self.vae.config.latent_channels, side, side), dtype=np.float32)
        return {"image": to_tensor(example.image[None])[0], "noise": torch.from_numpy(noise)}

    def describe(self, index: int) -> str:
        """The file or scene that sample ``index`` is cut from."""
        return self.feed.draw(np.random.default_rng([self.seed, index])).source

    def loss(self, module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Reconstruction and KL; scalar."""
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        output, mean, logvar = module(image, batch["noise"])
        reconstruction = reconstruction_loss(output.float(), batch["image"], self.gradient, self.chroma)
        return reconstruction + self.kl * kl_loss(mean, logvar)

    @torch.no_grad()
    def validate(self, module: nn.Module, step: int, folder: Path) -> Mapping[str, float | np.ndarray]:
        """PSNR in dB of fixed crops."""
        if not self.checked:
            return {}
        device = next(module.parameters()).device
        draws = [self._draw(np.random.default_rng([self.seed, 1 << 40, i])) for i in range(self.checked)]
        image = torch.stack([draw["image"] for draw in draws]).to(device)
        return {"psnr": psnr(self.vae.decode(self.vae.encode(image).latent_dist.mean).sample, image)}


@torch.no_grad()
def whiten(vae: AutoencoderKL, caches: Sequence[SceneCache], power: float) -> None:
    """Fold the normalisation of the latents of evenly spaced scenes into ``vae``, in place: see ``fold_whitening``."""
    device = next(vae.parameters()).device
    posteriors = [
        vae.encode(to_tensor(cache.images[i : i + 1]).to(device)).latent_dist
        for cache in caches
        for i in np.linspace(0, len(cache) - 1, min(len(cache), STATISTICS_SCENES)).astype(int)
    ]
    latents = torch.cat([p.mean.flatten(2)[0] for p in posteriors], dim=1)
    variance = torch.cat([p.var.flatten(2)[0] for p in posteriors], dim=1).mean(1)
    fold_whitening(vae, latents.mean(1), torch.cov(latents), variance, power)


@torch.no_grad()
def cache_latents(vae: AutoencoderKL, cache: SceneCache, path: Path) -> np.ndarray:
    """Mean latents of every scene, float16 [N,C,H/8,W/8], computed once and kept at ``path``."""
    if path.exists():
        return np.load(path, mmap_mode="r")
    n, height, width = cache.labels.shape
    shape = (n, vae.config.latent_channels, height // VAE_FACTOR, width // VAE_FACTOR)
    device = next(vae.parameters()).device
    with atomic_path(path) as temporary:
        latents = open_memmap(temporary, "w+", np.float16, shape)
        for first in range(0, n, 4):
            with torch.autocast(device.type, torch.bfloat16):
                mean = vae.encode(to_tensor(cache.images[first : first + 4]).to(device)).latent_dist.mean
            latents[first : first + 4] = mean.float().cpu().numpy().astype(np.float16)
        latents.flush()
    return np.load(path, mmap_mode="r")
