"""Last stage of the embedded model: the decoder learns to paint clean pictures from imperfect latents.

A sampler's latents are not those of the encoder: they miss by some noise, and a decoder that has only seen exact
latents turns the miss into smears. Here the decoder alone is trained on latents with Gaussian noise of a random level.
The encoder, and with it every latent that the UNets were trained on, stays as it is. So does ``post_quant_conv``: it
holds the inverse of the latents' whitening, the counterpart of ``quant_conv``, and as a 1x1 convolution in front of
another convolution it adds nothing that the decoder's first layer cannot learn.
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
from dgkit.training.data.feed import Example, Feed
from dgkit.training.diffusion.losses import psnr, reconstruction_loss
from dgkit.training.loop.trainer import fit

CHECKED = 16  # crops behind each figure of validation
LEVELS = (0.0, 0.3)  # noise levels of the figures


class DecoderTask:
    """Trains ``vae.decoder`` in place on examples with an image uint8 [S,S,3] and latents [C,S/f,S/f].

    ``stage`` gives the highest noise level (standard deviation in scaled latents, whose own is about 1) and the weights
    of the loss.
    """

    name = "decoder"
    parameter_scale = ("", 1.0)

    def __init__(self, vae: AutoencoderKL, feed: Feed, stage: DecoderStage, seed: int) -> None:
        vae.requires_grad_(False)
        self.vae, self.feed, self.stage, self.seed = vae, feed, stage, seed
        self.module: nn.Module = vae.decoder.to(memory_format=torch.channels_last).train().requires_grad_(True)
        self.identity = {"seed": seed, **stage.model_dump(include={"crop", "noise", "gradient", "chroma"})}

    def sample(self, index: int) -> dict[str, Tensor]:
        """``latents`` float32 [C,s,s], noised and unscaled; ``image`` float32 [3,S,S] in [-1, 1]."""
        rng = np.random.default_rng([self.seed, index])
        example = self.feed.draw(rng)
        return self._noised(example, float(rng.uniform(0, self.stage.noise)), rng)

    def _noised(self, example: Example, level: float, rng: np.random.Generator) -> dict[str, Tensor]:
        if example.image is None or example.latents is None:
            raise InputError(f"{example.source} has no image or no latents; the decoder stage needs both")
        mean, _ = example.latents
        noise = rng.standard_normal(mean.shape, dtype=np.float32) * (level / self.vae.config.scaling_factor)
        image = torch.from_numpy(np.ascontiguousarray(example.image)).permute(2, 0, 1)
        return {"latents": torch.from_numpy(mean + noise), "image": image.float().div_(127.5).sub_(1)}

    def loss(self, module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Reconstruction loss of the pictures decoded from the noised latents; scalar."""
        output = module(self._open(batch["latents"]))
        return reconstruction_loss(output.float(), batch["image"], self.stage.gradient, self.stage.chroma)

    def _open(self, latents: Tensor) -> Tensor:
        """Latents [B,C,s,s] through the frozen inverse of the whitening."""
        convolution = self.vae.post_quant_conv
        return latents if convolution is None else convolution(latents)

    def place(self, device: torch.device) -> None:
        """Move what is frozen and not part of the decoder."""
        if self.vae.post_quant_conv is not None:
            self.vae.post_quant_conv.to(device)

    def describe(self, index: int) -> str:
        """The scene that sample ``index`` is cut from."""
        return self.feed.draw(np.random.default_rng([self.seed, index])).source

    @torch.no_grad()
    def validate(self, module: nn.Module, step: int, folder: Path) -> Mapping[str, float | np.ndarray]:
        """PSNR in dB of fixed crops decoded from exact and from noised latents."""
        device = next(module.parameters()).device
        figures = {}
        for level in LEVELS:
            rngs = [np.random.default_rng([self.seed, 1 << 40, i]) for i in range(CHECKED)]
            samples = [self._noised(self.feed.draw(rng), level, rng) for rng in rngs]
            latents, images = (torch.stack([s[key] for s in samples]).to(device) for key in ("latents", "image"))
            figures[f"psnr_{level:g}"] = psnr(module(self._open(latents)), images)
        return figures


def train_decoder(
    vae: AutoencoderKL, feed: Feed, stage: DecoderStage, folder: Path, seed: int, progress: Progress | None = None
) -> AutoencoderKL:
    """Train the decoder of ``vae`` in place (resumable, in ``folder``) and return the autoencoder in eval mode.

    Encoder, quantisation convolutions and config are left bit for bit as they came.
    """
    task = DecoderTask(vae, feed, stage, seed)
    fit(task, stage, folder, progress=progress)
    return vae.eval().requires_grad_(False)
