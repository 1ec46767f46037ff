"""The model that a training starts from: a diffusers folder, or networks of Stable Diffusion's size without training.

Networks come in fp32, frozen and in inference mode; the task that trains one unfreezes it.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import nn

from dgkit.diffusion.hub import find_model
from dgkit.diffusion.random_model import RANDOM, SD15_SCHEDULER, SD15_TEXT, SD15_UNET, SD15_VAE
from dgkit.diffusion.weights import build, read_config, read_json
from dgkit.errors import UsageError
from dgkit.training.city.small_networks import write_tokenizer
from dgkit.training.data.text import Text

PIPELINE_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.30.0",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
SD15_TOKENS = SD15_TEXT["max_position_embeddings"]


class Encoders(Protocol):
    """What a denoiser is trained with, and not trained itself."""

    @property
    def scheduler(self) -> Mapping[str, Any]:
        """``scheduler_config.json``."""
        ...

    def vae(self) -> AutoencoderKL:
        """A new copy of the autoencoder."""
        ...

    def text(self) -> Text:
        """Tokenizer and a new copy of the text encoder."""
        ...


class Model(Encoders, Protocol):
    """Where the networks of a training come from."""

    def unet(self) -> UNet2DConditionModel:
        """A new copy of the UNet."""
        ...

    def write_rest(self, folder: Path) -> None:
        """Write everything of a pipeline folder but ``unet/`` to ``folder``, by hard links where possible."""
        ...


def find_training_model(model: str, seed: int = 0) -> Model:
    """``random:sd15``: networks without training; else a diffusers folder or hub id. Raises ModelError, UsageError."""
    if not model.startswith(RANDOM):
        return FolderModel(find_model(model))
    if model != f"{RANDOM}sd15":
        raise UsageError(f"unknown model {model!r}; without training there is {RANDOM}sd15", "or give a model folder")
    return RandomSd15(seed)


class FolderModel:
    """A diffusers pipeline folder with safetensors weights."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.scheduler = read_json(root / "scheduler" / "scheduler_config.json")

    def unet(self) -> UNet2DConditionModel:
        return self._part("unet")

    def vae(self) -> AutoencoderKL:
        return self._part("vae")

    def text(self) -> Text:
        from transformers import CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(self.root / "tokenizer", local_files_only=True)
        return Text(tokenizer, self._part("text_encoder"))

    def write_rest(self, folder: Path) -> None:
        for path in sorted(self.root.rglob("*")):
            name = path.relative_to(self.root)
            if path.is_file() and name.parts[0] in (*PIPELINE_INDEX, "model_index.json", "dgkit.json"):
                if name.parts[0] != "unet":
                    link(path, folder / name)

    def _part(self, name: str) -> Any:
        folder = self.root / name
        return build(folder, name, read_config(folder, name)).float()


class RandomSd15:
    """Networks of Stable Diffusion 1.5's size with random weights and a tiny tokenizer, to test and to dry-run."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.scheduler = SD15_SCHEDULER

    def unet(self) -> UNet2DConditionModel:
        return self._frozen(0, lambda: UNet2DConditionModel(**SD15_UNET))

    def vae(self) -> AutoencoderKL:
        return self._frozen(1, lambda: AutoencoderKL(**SD15_VAE))

    def text(self) -> Text:
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
        return Text(tokenizer, self._frozen(2, lambda: CLIPTextModel(config)))

    def write_rest(self, folder: Path) -> None:
        self.vae().save_pretrained(folder / "vae")
        self.text().encoder.save_pretrained(folder / "text_encoder")
        write_tokenizer(folder / "tokenizer", SD15_TOKENS)
        write_json(folder / "scheduler" / "scheduler_config.json", self.scheduler)
        write_json(folder / "model_index.json", {**PIPELINE_INDEX, "scheduler": ["diffusers", "PNDMScheduler"]})

    def _frozen(self, stream: int, make: Callable[[], Any]) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + stream)
            return make().eval().requires_grad_(False)


def link(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``, or a copy where the file system cannot link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """An indented JSON file; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(value), indent=2) + "\n", encoding="utf-8")


def save_network(network: AutoencoderKL | UNet2DConditionModel | ControlNetModel, folder: Path) -> None:
    """``save_pretrained``, without the path that the network was read from."""
    network.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    write_json(path, config)


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Fill ``folder`` anew by ``write(temporary)``; it is complete or absent whenever someone looks."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        write(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def place(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move and cast ``module`` in place.

    By torch's own method: that of diffusers warns of modules to keep in fp32 even where there are none.
    """
    nn.Module.to(module, device=device, dtype=dtype)
