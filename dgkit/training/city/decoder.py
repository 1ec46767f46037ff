"""Last stage of the embedded model: the decoder learns to paint clean images from imperfect latents.

The latents of a sampler differ from those of the encoder by some noise, which a decoder trained on exact latents turns
into smears. Here only the decoder is trained, on latents with Gaussian noise of a random level. The encoder and all
latents that the UNets were trained on stay unchanged. So does ``post_quant_conv``, the inverse of the whitening: as a
1x1 convolution before another convolution, it adds nothing that the decoder's first layer cannot learn.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from dgkit.errors import InputError
from dgkit.progress import Progress
from dgkit.training.city.city_recipe import DecoderStage
from dgkit.training.data.feed import Example, Feed, describe_sample
from dgkit.training.data.latents import autoencoder_input
from dgkit.training.diffusion.losses import psnr, reconstruction_loss
from dgkit.training.loop.task import Tensors, TrainingTask
from dgkit.training.loop.trainer import fit

VALIDATION_SAMPLES = 16
NOISE_LEVELS = (0.0, 0.3)  # of the validation


class DecoderTask(TrainingTask):
    """Trains ``vae.decoder`` in place on examples with an image uint8 [S,S,3] and latents [C,S/f,S/f].

    ``stage`` has the maximum noise level (standard deviation in scaled latents, whose own is about 1) and the weights
    of the loss.
    """

    name = "decoder"

    def __init__(self, vae: AutoencoderKL, feed: Feed, stage: DecoderStage, seed: int) -> None:
        vae.requires_grad_(False)
        self.vae, self.feed, self.stage, self.seed = vae, feed, stage, seed
        self.module = vae.decoder.to(memory_format=torch.channels_last).train().requires_grad_(True)
        self.identity = {"seed": seed, **stage.model_dump(include={"crop", "noise", "gradient", "chroma"})}

    def sample(self, index: int) -> Tensors:
        """Return ``latents`` float32 [C,s,s], noised and unscaled, and ``image`` float32 [3,S,S] in [-1, 1]."""
        rng = np.random.default_rng([self.seed, index])
        example = self.feed.draw(rng)
        return self._noised(example, float(rng.uniform(0, self.stage.noise)), rng)

    def _noised(self, example: Example, level: float, rng: np.random.Generator) -> Tensors:
        if example.image is None or example.latents is None:
            raise InputError(f"{example.source} has no image or no latents; the decoder stage needs both")
        mean, _ = example.latents
        noise = rng.standard_normal(mean.shape, dtype=np.float32) * (level / self.vae.config.scaling_factor)
        return {"latents": torch.from_numpy(mean + noise), "image": autoencoder_input(example.image[None])[0]}

    def loss(self, module: nn.Module, batch: Tensors) -> Tensor:
        """Return the reconstruction loss of images decoded from noised latents, a scalar."""
        output = module(self._unwhitened(batch["latents"]))
        return reconstruction_loss(output.float(), batch["image"], self.stage.gradient, self.stage.chroma)

    def _unwhitened(self, latents: Tensor) -> Tensor:
        """Return latents [B,C,s,s] after the frozen inverse of the whitening."""
        convolution = self.vae.post_quant_conv
        return latents if convolution is None else convolution(latents)

    def place(self, device: torch.device) -> None:
        """Move ``post_quant_conv``, which is frozen and not part of the decoder."""
        if self.vae.post_quant_conv is not None:
            self.vae.post_quant_conv.to(device)

    def describe(self, index: int) -> str:
        """Return the scene that sample ``index`` is cut from."""
        return describe_sample(self.feed, self.seed, index)

    @torch.no_grad()
    def validate(self, module: nn.Module, step: int, folder: Path) -> Mapping[str, float | np.ndarray]:
        """Return the PSNR in dB of fixed crops decoded from exact and from noised latents."""
        device = next(module.parameters()).device
        results = {}
        for level in NOISE_LEVELS:
            rngs = [np.random.default_rng([self.seed, 1 << 40, i]) for i in range(VALIDATION_SAMPLES)]
            samples = [self._noised(self.feed.draw(rng), level, rng) for rng in rngs]
            latents, images = (torch.stack([s[key] for s in samples]).to(device) for key in ("latents", "image"))
            results[f"psnr_{level:g}"] = psnr(module(self._unwhitened(latents)), images)
        return results


def train_decoder(
    vae: AutoencoderKL, feed: Feed, stage: DecoderStage, folder: Path, seed: int, progress: Progress | None = None
) -> AutoencoderKL:
    """Train the decoder of ``vae`` in place (resumable, in ``folder``) and return the autoencoder in eval mode.

    Encoder, quantisation convolutions and config remain bit for bit the same.
    """
    task = DecoderTask(vae, feed, stage, seed)
    fit(task, stage, folder, progress=progress)
    return vae.eval().requires_grad_(False)
