"""Rendered scenes of one role with their cached mean latents."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.lib.format import open_memmap

from dgkit.files import atomic_path
from dgkit.training.city.small_networks import VAE_FACTOR
from dgkit.training.data.latents import autoencoder_input
from dgkit.training.data.rendered_scenes import SceneCache
from dgkit.training.data.scene_feed import SceneFeed


@dataclass(frozen=True)
class SceneLatents:
    """Scenes of one role at zoom 1 and possibly zoom 2, with their latents, float16 [N,C,h,w] each."""

    caches: list[SceneCache]
    latents: list[np.ndarray]

    def feed(self, size: int, zoom2_share: float, rare_share: float = 0.0) -> SceneFeed:
        """Return a feed of latents of crops of ``size`` pixels, without the pixels."""
        shares = self.shares(zoom2_share)
        feed = SceneFeed(self.caches, size, shares=shares, rare_share=rare_share, latents=self.latents)
        feed.pixels = False
        return feed

    def shares(self, zoom2_share: float) -> list[float]:
        """Return the share of samples of each cache."""
        return [1.0] if len(self.caches) == 1 else [1 - zoom2_share, zoom2_share]


@torch.no_grad()
def cache_latents(vae: AutoencoderKL, cache: SceneCache, path: Path) -> np.ndarray:
    """Return the mean latents of all scenes, float16 [N,C,H/8,W/8], computed once and kept at ``path``."""
    if path.exists():
        return np.load(path, mmap_mode="r")
    n, height, width = cache.labels.shape
    shape = (n, vae.config.latent_channels, height // VAE_FACTOR, width // VAE_FACTOR)
    device = next(vae.parameters()).device
    with atomic_path(path) as temporary:
        latents = open_memmap(temporary, "w+", np.float16, shape)
        for first in range(0, n, 4):
            with torch.autocast(device.type, torch.bfloat16):
                images = autoencoder_input(cache.images[first : first + 4]).to(device)
                mean = vae.encode(images).latent_dist.mean
            latents[first : first + 4] = mean.float().cpu().numpy().astype(np.float16)
        latents.flush()
    return np.load(path, mmap_mode="r")
