"""Batches of latents, label crops and captions for the diffusion stages, each a function of (seed, stage, step)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from dgkit.data.crops import class_probabilities
from dgkit.labels import NUM_CLASSES
from dgkit.training.networks import FRAME_WORDS, STYLE_WORDS, VAE_FACTOR
from dgkit.training.scenes import SceneCache

RARE_PIXELS = 3000 / 512**2  # DGInStyle draws a file only if it has more than 3000 pixels of the class, at 512 x 512


@dataclass(frozen=True)
class LatentCache:
    """Scenes and their latents, float16 [N,C,h,w] with h = H / 8."""

    scenes: SceneCache
    latents: np.ndarray


@dataclass(frozen=True)
class Pick:
    """One crop: scene ``index`` of cache ``cache``, at latent cell (``y``, ``x``)."""

    cache: int
    index: int
    y: int
    x: int


class Sampler:
    """Draws crops of ``tile`` x ``tile`` latents from caches of zoom 1 and (optionally) zoom 2."""

    def __init__(self, caches: Sequence[LatentCache], tile: int, zoom2_share: float, rare_class: float = 0.0) -> None:
        self.caches, self.tile, self.rare_class = caches, tile, rare_class
        self.zoom_odds = np.array([1.0]) if len(caches) == 1 else np.array([1 - zoom2_share, zoom2_share])
        if rare_class:
            counts = [_class_counts(cache.scenes.labels) for cache in caches]
            self.probabilities = class_probabilities(sum(c.sum(0) for c in counts), 0.01)
            threshold = RARE_PIXELS * (tile * VAE_FACTOR) ** 2
            self.holders = [[np.flatnonzero(c[:, k] > threshold) for k in range(NUM_CLASSES)] for c in counts]

    def pick(self, rng: np.random.Generator) -> Pick:
        """Draw one crop: by rare class sampling (DGInStyle, ``dataset_GTA.py``) with odds ``rare_class``."""
        which = int(rng.choice(len(self.caches), p=self.zoom_odds))
        if self.rare_class and rng.random() < self.rare_class:
            class_id = int(rng.choice(NUM_CLASSES, p=self.probabilities))
            holders = self.holders[which][class_id]
            if len(holders):
                return self._around(which, int(rng.choice(holders)), class_id, rng)
        n, _, height, width = self.caches[which].latents.shape
        y, x = rng.integers(height - self.tile + 1), rng.integers(width - self.tile + 1)
        return Pick(which, int(rng.integers(n)), int(y), int(x))

    def _around(self, which: int, index: int, class_id: int, rng: np.random.Generator) -> Pick:
        """A crop centred on a random pixel of ``class_id`` in that scene, as far as the border lets it be."""
        ys, xs = np.nonzero(self.caches[which].scenes.labels[index] == class_id)
        anchor = rng.integers(len(ys))
        _, _, height, width = self.caches[which].latents.shape
        y = np.clip(ys[anchor] // VAE_FACTOR - self.tile // 2, 0, height - self.tile)
        x = np.clip(xs[anchor] // VAE_FACTOR - self.tile // 2, 0, width - self.tile)
        return Pick(which, index, int(y), int(x))

    def latents(self, picks: Sequence[Pick]) -> Tensor:
        """float32 [B,C,tile,tile]."""
        views = [self.caches[p.cache].latents[p.index, :, p.y : p.y + self.tile, p.x : p.x + self.tile] for p in picks]
        return torch.from_numpy(np.stack(views).astype(np.float32)).contiguous(memory_format=torch.channels_last)

    def labels(self, picks: Sequence[Pick]) -> np.ndarray:
        """uint8 [B,8 tile,8 tile] train ids and 255."""
        f, side = VAE_FACTOR, self.tile * VAE_FACTOR
        return np.stack(
            [self.caches[p.cache].scenes.labels[p.index, p.y * f :, p.x * f :][:side, :side] for p in picks]
        )

    def captions(self, picks: Sequence[Pick]) -> list[str]:
        return [self.caches[p.cache].scenes.captions[p.index] for p in picks]


def _class_counts(labels: np.ndarray) -> np.ndarray:
    """Pixels of each class, int64 [N,19], of uint8 [N,H,W]."""
    return np.stack([np.bincount(label.ravel(), minlength=256)[:NUM_CLASSES] for label in labels])


def thin(caption: str, rng: np.random.Generator) -> str:
    """Keep each class word with odds drawn anew for this caption; frame and style words stay.

    Prompts name any number of classes, and a style must work beside all of them.
    """
    odds = rng.random()
    words = caption.replace(",", " ,").replace(".", " .").split()
    kept = {*FRAME_WORDS, *STYLE_WORDS}
    return " ".join(word for word in words if word.lower() in kept or rng.random() < odds)


class Text:
    """The frozen tokenizer and text encoder: captions -> float32 [B,L,D]."""

    def __init__(self, tokenizer: CLIPTokenizer, encoder: nn.Module) -> None:
        self.tokenizer, self.encoder = tokenizer, encoder

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> Tensor:
        length = self.tokenizer.model_max_length
        tokens = self.tokenizer(
            list(captions), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        return self.encoder(tokens.input_ids)[0]
