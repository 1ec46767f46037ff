"""The model that a training starts from: a diffusers folder, or Stable Diffusion's networks with random weights.

Networks come in fp32, frozen and in inference mode; the task that trains one unfreezes it.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from dgkit.diffusion.hub import find_model
from dgkit.diffusion.model_folder import RANDOM
from dgkit.diffusion.part_config import read_config, read_json
from dgkit.diffusion.random_model import SD15_SCHEDULER, SD15_TEXT, SD15_UNET, SD15_VAE
from dgkit.diffusion.tokenizer_files import TokenizerFiles
from dgkit.diffusion.weights import build, check_finite
from dgkit.errors import UsageError, shown
from dgkit.training.data.caption_encoder import CaptionEncoder
from dgkit.training.diffusion.model_files import PIPELINE_INDEX, link, write_json
from dgkit.training.diffusion.word_tokenizer import write_tokenizer

SD15_TOKENS = SD15_TEXT["max_position_embeddings"]


class FrozenNetworks(Protocol):
    """The networks that a denoiser is trained with and that stay frozen."""

    @property
    def scheduler(self) -> Mapping[str, Any]:
        """Contents of ``scheduler_config.json``."""
        ...

    def vae(self) -> AutoencoderKL:
        """Return a new copy of the autoencoder."""
        ...

    def text(self) -> CaptionEncoder:
        """Return the tokenizer and a new copy of the text encoder."""
        ...


class StartingModel(FrozenNetworks, Protocol):
    """All networks of a pipeline, of which one is trained."""

    def unet(self) -> UNet2DConditionModel:
        """Return a new copy of the UNet."""
        ...

    def write_rest(self, folder: Path) -> None:
        """Write a pipeline folder without ``unet/`` to ``folder``, with hard links where possible."""
        ...


def find_training_model(model: str, seed: int = 0) -> StartingModel:
    """Return the networks of a diffusers folder or hub id, or with random weights for ``random:sd15``.

    Raises ModelError, UsageError.
    """
    if not model.startswith(RANDOM):
        return FolderModel(find_model(model))
    if model != f"{RANDOM}sd15":
        raise UsageError(
            f"unknown model {shown(model)}; the only one with random weights is {RANDOM}sd15",
            f"use {RANDOM}sd15, a model folder or a hub id",
        )
    return RandomSd15(seed)


class FolderModel:
    """A diffusers pipeline folder with safetensors weights."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.scheduler = read_json(root / "scheduler" / "scheduler_config.json")

    def unet(self) -> UNet2DConditionModel:
        """Return a new copy of the UNet."""
        return self._part("unet")

    def vae(self) -> AutoencoderKL:
        """Return a new copy of the autoencoder."""
        return self._part("vae")

    def text(self) -> CaptionEncoder:
        """Return the tokenizer and a new copy of the text encoder."""
        encoder = self._part("text_encoder")
        tokenizer = TokenizerFiles(self.root / "tokenizer").load(encoder.config.vocab_size)
        return CaptionEncoder(tokenizer, encoder)

    def write_rest(self, folder: Path) -> None:
        """Link the pipeline folder without ``unet/`` into ``folder``."""
        parts = {*PIPELINE_INDEX, "model_index.json", "dgkit.json"} - {"unet"}
        for path in sorted(self.root.rglob("*")):
            name = path.relative_to(self.root)
            if path.is_file() and name.parts[0] in parts:
                link(path, folder / name)

    def _part(self, name: str) -> Any:
        folder = self.root / name
        check_finite(folder, name)
        return build(folder, name, read_config(folder, name)).float()


class RandomSd15:
    """Networks of Stable Diffusion 1.5's size with random weights and a tiny tokenizer, for tests and dry runs."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.scheduler = SD15_SCHEDULER

    def unet(self) -> UNet2DConditionModel:
        """Return a new copy of the UNet."""
        return self._frozen(0, lambda: UNet2DConditionModel(**SD15_UNET))

    def vae(self) -> AutoencoderKL:
        """Return a new copy of the autoencoder."""
        return self._frozen(1, lambda: AutoencoderKL(**SD15_VAE))

    def text(self) -> CaptionEncoder:
        """Return the tokenizer and a new copy of the text encoder."""
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

        with tempfile.TemporaryDirectory() as folder:
            write_tokenizer(Path(folder), SD15_TOKENS)
            tokenizer = CLIPTokenizer.from_pretrained(folder)
        config = CLIPTextConfig(
            **SD15_TEXT,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        return CaptionEncoder(tokenizer, self._frozen(2, lambda: CLIPTextModel(config)))

    def write_rest(self, folder: Path) -> None:
        """Write a pipeline folder without ``unet/`` to ``folder``."""
        self.vae().save_pretrained(folder / "vae")
        self.text().encoder.save_pretrained(folder / "text_encoder")
        write_tokenizer(folder / "tokenizer", SD15_TOKENS)
        write_json(folder / "scheduler" / "scheduler_config.json", self.scheduler)
        write_json(folder / "model_index.json", {**PIPELINE_INDEX, "scheduler": ["diffusers", "PNDMScheduler"]})

    def _frozen(self, stream: int, make: Callable[[], Any]) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + stream)
            return make().eval().requires_grad_(False)
