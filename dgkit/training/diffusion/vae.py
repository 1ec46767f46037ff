"""Training an autoencoder on images."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from dgkit.errors import InputError
from dgkit.training.data.feed import Feed, describe_sample
from dgkit.training.data.latents import autoencoder_input
from dgkit.training.diffusion.losses import kl_loss, psnr, reconstruction_loss
from dgkit.training.loop.task import Tensors, TrainingTask


class Autoencoder(nn.Module):
    """Encoder, posterior sampling and decoder as one network, so that several processes share all gradients."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the decoded ``mean + std * noise``, the mean and the log variance of an image's posterior.

        Shapes: image [B,3,H,W], noise, mean and log variance [B,C,h,w].
        """
        posterior = self.vae.encode(image).latent_dist
        latents = posterior.mean + posterior.std * noise.to(posterior.mean.dtype)
        return self.vae.decode(latents).sample, posterior.mean, posterior.logvar


class VaeTask(TrainingTask):
    """Trains ``vae`` in place on the images of ``feed`` with a weighted sum of L1, gradient, chroma and KL losses.

    Validation measures the PSNR of ``validation_samples`` fixed crops decoded from their mean latents.
    """

    name = "vae"

    def __init__(
        self,
        vae: AutoencoderKL,
        feed: Feed,
        *,
        seed: int,
        gradient: float,
        chroma: float,
        kl: float,
        validation_samples: int = 32,
    ) -> None:
        self.vae, self.feed, self.seed, self.validation_samples = vae, feed, seed, validation_samples
        self.gradient, self.chroma, self.kl = gradient, chroma, kl
        self.identity = {"seed": seed, "gradient": gradient, "chroma": chroma, "kl": kl}
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.module = Autoencoder(vae.to(memory_format=torch.channels_last).train().requires_grad_(True))

    def sample(self, index: int) -> Tensors:
        """Return ``image`` float32 [3,S,S] in [-1, 1] and ``noise`` float32 [C,s,s] for sampling the posterior."""
        return self._draw(np.random.default_rng([self.seed, index]))

    def _draw(self, rng: np.random.Generator) -> Tensors:
        example = self.feed.draw(rng)
        if example.image is None:
            raise InputError(f"{example.source} has no image", "train an autoencoder on images, not on cached latents")
        side = example.image.shape[0] // self.factor
        noise = rng.standard_normal((self.vae.config.latent_channels, side, side), dtype=np.float32)
        return {"image": autoencoder_input(example.image[None])[0], "noise": torch.from_numpy(noise)}

    def describe(self, index: int) -> str:
        """Return the file or scene that sample ``index`` is cut from."""
        return describe_sample(self.feed, self.seed, index)

    def loss(self, module: nn.Module, batch: Tensors) -> Tensor:
        """Return the reconstruction and KL losses, a scalar."""
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        output, mean, logvar = module(image, batch["noise"])
        reconstruction = reconstruction_loss(output.float(), batch["image"], self.gradient, self.chroma)
        return reconstruction + self.kl * kl_loss(mean, logvar)

    @torch.no_grad()
    def validate(self, module: nn.Module, step: int, folder: Path) -> Mapping[str, float | np.ndarray]:
        """Return the PSNR in dB of fixed crops; nothing without samples."""
        if not self.validation_samples:
            return {}
        device = next(module.parameters()).device
        draws = [self._draw(np.random.default_rng([self.seed, 1 << 40, i])) for i in range(self.validation_samples)]
        image = torch.stack([draw["image"] for draw in draws]).to(device)
        return {"psnr": psnr(self.vae.decode(self.vae.encode(image).latent_dist.mean).sample, image)}
