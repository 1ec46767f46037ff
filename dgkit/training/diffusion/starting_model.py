"""The model that a training starts from: a diffusers folder, or a published prior's networks with random weights.

Networks come in fp32, frozen and in inference mode; the task that trains one unfreezes it.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

from dgkit.diffusion.hub import find_controlnet, find_model
from dgkit.diffusion.model_folder import RANDOM, controlnet_taxonomy, find_parts, zeros_for_empty
from dgkit.diffusion.part_config import SDXL_INDEX, TEXT_ENCODERS, read_config, read_json
from dgkit.diffusion.part_fit import check_controlnet
from dgkit.diffusion.random_model import SIZES
from dgkit.diffusion.tokenizer_files import TokenizerFiles, TokenizerPair
from dgkit.diffusion.weights import build, check_finite, save_part
from dgkit.engines.modules import TextEncoders
from dgkit.errors import UsageError, shown
from dgkit.taxonomies import Taxonomy, mixed
from dgkit.training.data.caption_encoder import CaptionEncoder
from dgkit.training.diffusion.model_files import PIPELINE_INDEX, link, write_json
from dgkit.training.diffusion.word_tokenizer import write_tokenizer

PRIORS = ("sd15", "sd21", "sdxl")
"""Names of the models with random weights that a training can start from."""


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
    """Return the networks of a diffusers folder or hub id, or with random weights for ``random:NAME``.

    Raises ModelError, UsageError.
    """
    if not model.startswith(RANDOM):
        return FolderModel(find_model(model))
    name = model.removeprefix(RANDOM)
    if name not in PRIORS:
        known = ", ".join(f"{RANDOM}{name}" for name in PRIORS)
        raise UsageError(
            f"unknown model {shown(model)}; those with random weights are {known}",
            f"use {RANDOM}sd15, a model folder or a hub id",
        )
    return RandomPrior(name, seed)


def read_controlnet(source: str, taxonomy: Taxonomy, unet: UNet2DConditionModel) -> ControlNetModel:
    """Return the ControlNet in a folder or of a hub id, in fp32, for ``unet`` and condition channels of ``taxonomy``.

    Raises ModelError, also for one that does not fit, and InputError for one of other classes.
    """
    folder = find_controlnet(source)
    stated = controlnet_taxonomy(folder)
    if stated != taxonomy:
        raise mixed(taxonomy, stated, f"the ControlNet {folder}")
    config, own = read_config(folder, "controlnet"), json.loads(json.dumps(dict(unet.config), default=str))
    check_controlnet(own, config, {"controlnet": folder, "unet": Path("of the recipe's model")}, taxonomy)
    check_finite(folder, "controlnet")
    return cast(ControlNetModel, build(folder, "controlnet", config).float())


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
        """Return the tokenizer and a new copy of the text encoder; for SDXL both are pairs."""
        names = [name for name in TEXT_ENCODERS if name in find_parts(self.root)]
        encoders = [self._part(name) for name in names]
        folders = [self.root / name.replace("text_encoder", "tokenizer") for name in names]
        found = [
            TokenizerFiles(folder).load(encoder.config.vocab_size)
            for folder, encoder in zip(folders, encoders, strict=True)
        ]
        if len(names) == 1:
            return CaptionEncoder(found[0], encoders[0])
        return CaptionEncoder(TokenizerPair(*found), TextEncoders(*encoders), zeros_for_empty(self.root))

    def write_rest(self, folder: Path) -> None:
        """Link the pipeline folder without ``unet/`` into ``folder``."""
        parts = {*PIPELINE_INDEX, *SDXL_INDEX, "model_index.json", "dgkit.json"} - {"unet"}
        for path in sorted(self.root.rglob("*")):
            name = path.relative_to(self.root)
            if path.is_file() and name.parts[0] in parts:
                link(path, folder / name)

    def _part(self, name: str) -> Any:
        folder = self.root / name
        check_finite(folder, name)
        return build(folder, name, read_config(folder, name)).float()


class RandomPrior:
    """Networks of a published prior's size with random weights and a tiny tokenizer, for tests and dry runs.

    ``name``: ``sd15``, ``sd21`` or ``sdxl``.
    """

    def __init__(self, name: str, seed: int) -> None:
        self.sizes, self.seed = SIZES[name], seed
        self.scheduler = self.sizes.scheduler

    def unet(self) -> UNet2DConditionModel:
        """Return a new copy of the UNet."""
        return self._frozen(0, lambda: UNet2DConditionModel(**self.sizes.unet))

    def vae(self) -> AutoencoderKL:
        """Return a new copy of the autoencoder."""
        return self._frozen(1, lambda: AutoencoderKL(**self.sizes.vae))

    def text(self) -> CaptionEncoder:
        """Return the tokenizers and new copies of the text encoders."""
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        with tempfile.TemporaryDirectory() as folder:
            write_tokenizer(Path(folder), self._tokens)
            tokenizer = CLIPTokenizer.from_pretrained(folder)
        special = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        first = self._frozen(2, lambda: CLIPTextModel(CLIPTextConfig(**self.sizes.text, **special)))
        if self.sizes.text_2 is None:
            return CaptionEncoder(tokenizer, first)
        config = CLIPTextConfig(**self.sizes.text_2, **special)
        second = self._frozen(3, lambda: CLIPTextModelWithProjection(config))
        return CaptionEncoder(TokenizerPair(tokenizer, tokenizer), TextEncoders(first, second), zero_empty=True)

    def write_rest(self, folder: Path) -> None:
        """Write a pipeline folder without ``unet/`` to ``folder``."""
        save_part(self.vae(), folder / "vae")
        text = self.text()
        encoders = (text.encoder.first, text.encoder.second) if text.pair else (text.encoder,)
        for encoder, name in zip(encoders, TEXT_ENCODERS, strict=False):
            save_part(encoder, folder / name)
            write_tokenizer(folder / name.replace("text_encoder", "tokenizer"), self._tokens)
        write_json(folder / "scheduler" / "scheduler_config.json", self.scheduler)
        index = {**PIPELINE_INDEX, "scheduler": ["diffusers", self.scheduler["_class_name"]]}
        if text.pair:
            index = {key: value for key, value in index.items() if "safety" not in key} | SDXL_INDEX
            index |= {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True}
        write_json(folder / "model_index.json", index)

    @property
    def _tokens(self) -> int:
        return int(self.sizes.text["max_position_embeddings"])

    def _frozen(self, stream: int, make: Callable[[], Any]) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + stream)
            return make().eval().requires_grad_(False)
