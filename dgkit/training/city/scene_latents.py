"""Rendered scenes of one role with their cached mean latents."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.lib.format import open_memmap

from dgkit.errors import ModelError
from dgkit.files import atomic_path
from dgkit.training.city.small_networks import VAE_FACTOR
from dgkit.training.data.latents import autoencoder_input, digest_network
from dgkit.training.data.rendered_scenes import SceneCache
from dgkit.training.data.scene_feed import SceneFeed
from dgkit.training.loop.integrity import find_result, record_result


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
    """Return the mean latents of all scenes, float16 [N,C,H/8,W/8], computed once and kept at ``path``.

    Size, SHA-256 and the autoencoder are recorded next to the file, which is computed again if it does not match. A
    file of an earlier version has no record and is only checked for its shape and finite values. Raises ModelError for
    an autoencoder whose latents are not finite.
    """
    n, height, width = cache.labels.shape
    shape = (n, vae.config.latent_channels, height // VAE_FACTOR, width // VAE_FACTOR)
    record, facts = path.with_suffix(".json"), {"autoencoder": digest_network(vae)}
    recorded = record.exists()
    if find_result(record, path.parent, **facts) == "":
        return np.load(path, mmap_mode="r")
    if not recorded and (found := _read_plain(path, shape)) is not None:
        record_result(record, path.parent, [path], **facts)
        return found
    record.unlink(missing_ok=True)
    device = next(vae.parameters()).device
    with atomic_path(path) as temporary:
        latents = open_memmap(temporary, "w+", np.float16, shape)
        for first in range(0, n, 4):
            with torch.autocast(device.type, torch.bfloat16):
                images = autoencoder_input(cache.images[first : first + 4]).to(device)
                mean = vae.encode(images).latent_dist.mean
            latents[first : first + 4] = mean.float().cpu().numpy().astype(np.float16)
        latents.flush()
        if not all(np.isfinite(scene).all() for scene in latents):
            raise ModelError("the latents of the trained autoencoder are not finite", "train it with a lower vae.lr")
    record_result(record, path.parent, [path], **facts)
    return np.load(path, mmap_mode="r")


def _read_plain(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the latents of a file without a record, None if it is absent or damaged."""
    try:
        latents = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    intact = (
        latents.shape == shape and latents.dtype == np.float16 and all(np.isfinite(scene).all() for scene in latents)
    )
    return latents if intact else None
