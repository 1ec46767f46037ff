"""From drawn examples to what a denoiser is trained on: noised latents, timesteps, text and the target.

Everything random of sample ``index`` comes from one generator over (seed, index), on the CPU, in float32: crop,
caption, timestep, noise. What needs a network, encoding pictures and text, happens on the batch, where the trained
network is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from dgkit.diffusion.pipeline import one_hot
from dgkit.errors import InputError
from dgkit.training.data.captions import TextCache
from dgkit.training.data.feed import Example, Feed
from dgkit.training.data.latents import digest_network
from dgkit.training.diffusion.diffusion_recipes import Objective
from dgkit.training.diffusion.losses import diffusion_target, draw_timestep, noise_schedule, snr_weights
from dgkit.training.diffusion.starting_model import Encoders, place

CHANNELS_LAST = torch.channels_last
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Noised:
    """Input and target of a denoiser, float [B,...] in the precision of the frozen networks, target float32.

    ``condition`` is the one-hot label [B,20,S,S], or None without labels. ``weights`` float32 [B].
    """

    latents: Tensor
    timesteps: Tensor
    text: Tensor
    condition: Tensor | None
    target: Tensor
    weights: Tensor


class Noising:
    """Samples and batches of one diffusion training on ``model``'s autoencoder, text encoder and noise schedule.

    ``labels``: each sample must have a label map, which becomes the condition. ``text_cache``: folder that keeps the
    text of every distinct caption, float16, so that each is encoded once, with its sample, and not in every batch.
    """

    def __init__(
        self,
        model: Encoders,
        feed: Feed,
        objective: Objective,
        *,
        seed: int,
        precision: str = "fp32",
        labels: bool = False,
        text_cache: Path | None = None,
    ) -> None:
        self.feed, self.objective, self.seed, self.labels = feed, objective, seed, labels
        self.identity: dict[str, Any] = {"seed": seed, **objective.model_dump()}
        self.dtype = DTYPES[precision]
        self.schedule = noise_schedule(model.scheduler)
        self.text = model.text()
        self.vae: AutoencoderKL = model.vae()
        self.captions: TextCache | None = None
        if text_cache is not None:
            self.captions = TextCache(text_cache, digest_network(self.text.encoder), self._embed)
            self.identity["text_cache"] = True
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.place(torch.device("cpu"))

    def sample(self, index: int) -> dict[str, Tensor]:
        """``latents`` float32 [C,s,s] (scaled), or ``image`` uint8 [3,S,S] and ``posterior`` noise [C,s,s]; ``noise``
        float32 [C,s,s]; ``timestep`` int64 []; ``tokens`` int64 [L], or ``text`` float32 [L,D] from the cache;
        ``label`` uint8 [S,S] where labels are wanted.
        """
        rng = np.random.default_rng([self.seed, index])
        example = self.feed.draw(rng)
        count = int(self.schedule.config.num_train_timesteps)
        timestep = draw_timestep(rng, self.objective.high_noise, self.objective.high_noise_from, count)
        sample = self._latents(example, rng)
        shape = sample["latents" if "latents" in sample else "posterior"].shape
        sample["noise"] = torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32))
        sample["timestep"] = torch.tensor(timestep)
        if self.captions:
            sample["text"] = torch.from_numpy(self.captions([example.caption])[0].astype(np.float32))
        else:
            sample["tokens"] = self.text.tokens([example.caption])[0]
        if self.labels:
            if example.label is None:
                raise InputError(f"{example.source} has no label map; a ControlNet needs one", "use labelled data rows")
            sample["label"] = torch.from_numpy(np.array(example.label))
        return sample

    def _latents(self, example: Example, rng: np.random.Generator) -> dict[str, Tensor]:
        if example.latents is not None:
            mean, deviation = example.latents
            if deviation.any():
                mean = mean + deviation * rng.standard_normal(mean.shape, dtype=np.float32)
            return {"latents": torch.from_numpy(np.array(mean * self.vae.config.scaling_factor, np.float32))}
        if example.image is None:
            raise InputError(f"{example.source} has neither an image nor latents", "check the data rows of the recipe")
        side = example.image.shape[0] // self.factor
        posterior = rng.standard_normal((self.vae.config.latent_channels, side, side), dtype=np.float32)
        image = torch.from_numpy(np.ascontiguousarray(example.image.transpose(2, 0, 1)))
        return {"image": image, "posterior": torch.from_numpy(posterior)}

    @torch.no_grad()
    def encode(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A stacked batch of :meth:`sample` with ``latents`` and ``text`` in place of pictures and tokens."""
        batch = dict(batch)
        with torch.autocast(batch["noise"].device.type, enabled=False):  # frozen networks have their own precision
            if "latents" not in batch:
                batch["latents"] = self._encode(batch.pop("image"), batch.pop("posterior"))
            if "text" not in batch:
                batch["text"] = self.text.encode(batch.pop("tokens"))
        return batch

    @torch.no_grad()
    def batch(self, batch: dict[str, Tensor]) -> Noised:
        """A stacked batch of :meth:`sample`, encoded or not, as the denoiser takes it, on the device it is on."""
        batch = self.encode(batch)
        noise, timesteps, latents, text = batch["noise"], batch["timestep"], batch["latents"], batch["text"]
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        return Noised(
            latents=noisy.to(self.dtype).contiguous(memory_format=CHANNELS_LAST),
            timesteps=timesteps,
            text=text.to(self.dtype),
            condition=one_hot(batch["label"]).to(self.dtype) if self.labels else None,
            target=diffusion_target(self.schedule, latents, noise, timesteps),
            weights=snr_weights(self.schedule, timesteps, self.objective.min_snr_gamma),
        )

    def _encode(self, image: Tensor, posterior: Tensor) -> Tensor:
        """Scaled latents float32 [B,C,s,s], drawn from the posterior of uint8 [B,3,S,S]."""
        distribution = self.vae.encode(image.to(self.vae.dtype).div(127.5).sub(1)).latent_dist
        latents = distribution.mean.float() + distribution.std.float() * posterior
        return latents * self.vae.config.scaling_factor

    def place(self, device: torch.device) -> None:
        """Move the frozen networks to where the batches will be, in the training's precision.

        An autoencoder that says it overflows in fp16 (``force_upcast``) stays fp32 there.
        """
        if self.captions is None:
            place(self.text.encoder, device, self.dtype)
        upcast = self.dtype == torch.float16 and self.vae.config.force_upcast
        place(self.vae, device, torch.float32 if upcast else self.dtype)

    def _embed(self, captions: Sequence[str]) -> np.ndarray:
        return self.text(captions).float().cpu().numpy()

    def describe(self, index: int) -> str:
        """The file or scene that sample ``index`` is cut from."""
        return self.feed.draw(np.random.default_rng([self.seed, index])).source
