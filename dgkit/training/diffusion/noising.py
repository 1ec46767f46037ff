"""The samples of a denoiser's training: noised latents, timesteps, text and targets from the examples of a feed.

All randomness of sample ``index`` (crop, caption, timestep, noise) comes from one generator seeded with (seed, index),
on the CPU, in float32. Frozen networks encode images and text per batch, on the device of the trained network.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from dgkit.diffusion.pipeline import one_hot
from dgkit.errors import InputError
from dgkit.taxonomies import CITYSCAPES19, Taxonomy
from dgkit.training.data.captions import TextCache
from dgkit.training.data.feed import Example, Feed, describe_sample
from dgkit.training.data.latents import digest_network
from dgkit.training.diffusion.diffusion_recipes import Objective
from dgkit.training.diffusion.losses import (
    diffusion_target,
    draw_timestep,
    noise_schedule,
    redraw_timestep,
    snr_weights,
)
from dgkit.training.diffusion.starting_model import FrozenNetworks
from dgkit.training.loop.checkpoint import FROZEN
from dgkit.training.loop.integrity import digest_weights
from dgkit.training.loop.task import Tensors

CHANNELS_LAST = torch.channels_last
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Noised:
    """Inputs and targets of a denoiser, float [B,...] in the precision of the frozen networks; the target is float32.

    ``condition`` is the one-hot label [B,20,S,S], or None without labels. ``weights`` float32 [B]. ``added`` are the
    further inputs of SDXL, ``text_embeds`` [B,P] and ``time_ids`` float32 [B,6]; None for other models.
    """

    latents: Tensor
    timesteps: Tensor
    text: Tensor
    condition: Tensor | None
    target: Tensor
    weights: Tensor
    added: Tensors | None = None


class Noising:
    """Samples and batches of a diffusion training with ``model``'s autoencoder, text encoder and noise schedule.

    With ``labels`` each sample must have a label map, which becomes the condition. ``text_cache`` is a folder for text
    embeddings in float16: each distinct caption is encoded once, with its sample, and not in every batch.
    """

    def __init__(
        self,
        model: FrozenNetworks,
        feed: Feed,
        objective: Objective,
        *,
        seed: int,
        precision: str = "fp32",
        labels: bool = False,
        text_cache: Path | None = None,
        taxonomy: Taxonomy = CITYSCAPES19,
    ) -> None:
        self.feed, self.objective, self.seed, self.labels = feed, objective, seed, labels
        self.taxonomy = taxonomy
        self.identity: dict[str, Any] = {"seed": seed, **objective.model_dump(mode="json")}
        self.dtype = DTYPES[precision]
        self.schedule = noise_schedule(model.scheduler)
        self.text = model.text()
        self.vae: AutoencoderKL = model.vae()
        self.captions: TextCache | None = None
        if text_cache is not None:
            self.captions = TextCache(text_cache, self._text_digest(), self.text.packed)
            self.identity["text_cache"] = True
        self.add_frozen(self.text.encoder, self.vae)
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.place(torch.device("cpu"))

    def add_frozen(self, *networks: nn.Module) -> None:
        """Make the weights of frozen ``networks`` part of the identity; call it before they are cast."""
        found = [self.identity.get(FROZEN, ""), *map(digest_weights, networks)]
        self.identity[FROZEN] = hashlib.sha256(" ".join(found).encode()).hexdigest()

    def sample(self, index: int) -> Tensors:
        """Return sample ``index``.

        It has ``latents`` float32 [C,s,s] (scaled), or ``image`` uint8 [3,S,S] and ``posterior`` noise [C,s,s];
        ``noise`` float32 [C,s,s]; ``timestep`` int64 []; ``tokens`` int64 [L], or ``text`` float32 [L,D] from the
        cache; and with labels ``label`` uint8 [S,S]. For SDXL ``tokens`` are [2,L], the cache adds ``text_embeds``
        float32 [P], and ``time_ids`` float32 [6] is the crop as drawn: height and width of the whole image before
        rescaling, top and left of the crop, its height and width. Raises InputError for an example without what it
        needs.
        """
        rng = np.random.default_rng([self.seed, index])
        example = self.feed.draw(rng)
        count = int(self.schedule.config.num_train_timesteps)
        timestep = draw_timestep(rng, self.objective.high_noise, self.objective.high_noise_from, count)
        if (reward := self.objective.reward) is not None:
            timestep = redraw_timestep(rng, timestep, reward.share, reward.t)
        sample = self._latents(example, rng)
        shape = sample["latents" if "latents" in sample else "posterior"].shape
        sample["noise"] = torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32))
        sample["timestep"] = torch.tensor(timestep)
        if self.captions:
            sample.update(self.text.unpacked(self.captions([example.caption])[0]))
        else:
            sample["tokens"] = self.text.tokens([example.caption])[0]
        if self.text.pair:
            size = shape[-1] * self.factor
            frame = example.frame or (size, size, 0, 0)
            sample["time_ids"] = torch.tensor([*frame, size, size], dtype=torch.float32)
        if self.labels:
            if example.label is None:
                raise InputError(
                    f"{example.source} has no label map, which a ControlNet needs", "use labelled data rows"
                )
            sample["label"] = torch.from_numpy(np.array(example.label))
        return sample

    def _latents(self, example: Example, rng: np.random.Generator) -> Tensors:
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
    def encode(self, batch: Tensors) -> Tensors:
        """Return a stacked batch of :meth:`sample` with ``latents`` and ``text`` in place of images and tokens."""
        batch = dict(batch)
        with torch.autocast(batch["noise"].device.type, enabled=False):  # frozen networks keep their own precision
            if "latents" not in batch:
                batch["latents"] = self._encode(batch.pop("image"), batch.pop("posterior"))
            if "text" not in batch:
                batch.update(self.text.encode(batch.pop("tokens")))
        return batch

    @torch.no_grad()
    def batch(self, batch: Tensors) -> Noised:
        """Return inputs and targets for a stacked batch of :meth:`sample`, encoded or not, on its device."""
        batch = self.encode(batch)
        noise, timesteps, latents, text = batch["noise"], batch["timestep"], batch["latents"], batch["text"]
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        return Noised(
            latents=noisy.to(self.dtype).contiguous(memory_format=CHANNELS_LAST),
            timesteps=timesteps,
            text=text.to(self.dtype),
            condition=one_hot(batch["label"], self.taxonomy.channels).to(self.dtype) if self.labels else None,
            target=diffusion_target(self.schedule, latents, noise, timesteps),
            weights=snr_weights(self.schedule, timesteps, self.objective.min_snr_gamma),
            added=self.added(batch["text_embeds"], batch["time_ids"]) if self.text.pair else None,
        )

    def added(self, pooled: Tensor, time_ids: Tensor) -> Tensors:
        """Return the further inputs of SDXL for pooled text [B,P] and sizes [B,6]."""
        return {"text_embeds": pooled.to(self.dtype), "time_ids": time_ids}

    def _encode(self, image: Tensor, posterior: Tensor) -> Tensor:
        """Return scaled latents float32 [B,C,s,s], drawn from the posterior of uint8 [B,3,S,S]."""
        distribution = self.vae.encode(image.to(self.vae.dtype).div(127.5).sub(1)).latent_dist
        latents = distribution.mean.float() + distribution.std.float() * posterior
        return latents * self.vae.config.scaling_factor

    def place(self, device: torch.device) -> None:
        """Move the frozen networks to ``device``, in the precision of the training.

        In fp16 an autoencoder with ``force_upcast`` in its config stays fp32, as it would overflow.
        """
        if self.captions is None:
            move_module(self.text.encoder, device, self.dtype)
        upcast = self.dtype == torch.float16 and self.vae.config.force_upcast
        move_module(self.vae, device, torch.float32 if upcast else self.dtype)

    def _text_digest(self) -> str:
        """Return what embeddings depend on; those of a pair also on the tokenizers and on the rule for "" ."""
        found = digest_network(self.text.encoder)
        if not self.text.pair:
            return found
        rule = f"{found} {self.text.zero_empty} {self.text.tokens(['a', '']).tolist()}"
        return hashlib.sha256(rule.encode()).hexdigest()

    def describe(self, index: int) -> str:
        """Return the file or scene that sample ``index`` is cut from."""
        return describe_sample(self.feed, self.seed, index)


def move_module(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move and cast ``module`` in place, with torch's own method.

    The method of diffusers warns about modules to keep in fp32 even if there are none.
    """
    nn.Module.to(module, device=device, dtype=dtype)
