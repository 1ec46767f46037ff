"""The embedded model from nothing: scenes, autoencoder, prior UNet, source UNet, ControlNet, style swap.

Every stage resumes where it stopped; a finished stage is read back from its folder.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTokenizer

from dgkit.config import dump_config
from dgkit.diffusion.swap import swap
from dgkit.files import atomic_write
from dgkit.training.batches import LatentCache, Sampler, Text
from dgkit.training.controlnet import train_controlnet
from dgkit.training.diffusion import train_unet
from dgkit.training.loop import Progress
from dgkit.training.networks import SCHEDULER, VAE_FACTOR, build_unet, write_text_model
from dgkit.training.recipe import CityRecipe, DiffusionStage, Scenes
from dgkit.training.scenes import SceneCache, render_scenes
from dgkit.training.vae import cache_latents, train_vae

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


@dataclass(frozen=True)
class CityTraining:
    """One training in the folder ``work``."""

    work: Path
    recipe: CityRecipe
    progress: Progress | None = None

    def run(self) -> Path:
        """Run every stage that is not finished; returns the swapped model folder, ``work/model``."""
        self.work.mkdir(parents=True, exist_ok=True)
        atomic_write(self.work / "config.yaml", dump_config(self.recipe).encode())
        prior_scenes = self._scenes("prior", self.recipe.prior)
        source_scenes = self._scenes("source", self.recipe.source)
        text = self._text()
        vae = self._vae([*prior_scenes, *source_scenes])
        prior = self._latents("prior", vae, prior_scenes)
        source = self._latents("source", vae, source_scenes)
        unet = self._unet("unet", lambda: build_unet(self._tile), prior, text, stage_seed=10)
        finetuned = self._unet("finetune", lambda: unet, source, text, stage_seed=20)
        self._controlnet(finetuned, source, text)
        return self._assemble()

    @property
    def _tile(self) -> int:
        return self.recipe.height // VAE_FACTOR

    def _scenes(self, role: str, scenes: Scenes) -> list[SceneCache]:
        caches = []
        for zoom, count in ((1, scenes.zoom1), (2, scenes.zoom2)):
            if count:
                name = f"scenes/{role}{zoom}"
                report = partial(_report, self.progress, name)
                height = self.recipe.height * zoom
                seed = self.recipe.seed + zoom - 1
                folder = self.work / name
                caches.append(render_scenes(folder, role, count, seed, height, self.recipe.workers, report))
        return caches

    def _text(self) -> Text:
        encoder = write_text_model(self.work / "text", self.recipe.seed)
        return Text(CLIPTokenizer.from_pretrained(self.work / "text" / "tokenizer"), encoder)

    def _vae(self, caches: list[SceneCache]) -> AutoencoderKL:
        finished = self.work / "vae" / "finished"
        if not finished.exists():
            recipe = self.recipe
            vae = train_vae(self.work / "vae", caches, recipe.vae, recipe.seed, recipe.height, self.progress)
            _save(vae, finished)
        return AutoencoderKL.from_pretrained(finished).to(memory_format=torch.channels_last).requires_grad_(False)

    def _latents(self, role: str, vae: AutoencoderKL, caches: list[SceneCache]) -> list[LatentCache]:
        paths = [self.work / "scenes" / f"{role}{zoom}" / "latents.npy" for zoom in (1, 2)]
        return [LatentCache(cache, cache_latents(vae, cache, path)) for cache, path in zip(caches, paths, strict=False)]

    def _unet(
        self,
        name: str,
        start: Callable[[], UNet2DConditionModel],
        caches: list[LatentCache],
        text: Text,
        stage_seed: int,
    ) -> UNet2DConditionModel:
        """Train the network that ``start`` returns, or read it back; the last user of that network is this stage."""
        finished = self.work / name / "finished"
        if not finished.exists():
            stage: DiffusionStage = getattr(self.recipe, name)
            seed = self.recipe.seed + stage_seed
            torch.manual_seed(seed)
            sampler = Sampler(caches, self._tile, stage.zoom2_share)
            _save(train_unet(name, start(), sampler, text, stage, self.work / name, seed, self.progress), finished)
        return UNet2DConditionModel.from_pretrained(finished).requires_grad_(False)

    def _controlnet(self, unet: UNet2DConditionModel, caches: list[LatentCache], text: Text) -> ControlNetModel:
        finished = self.work / "controlnet" / "finished"
        if not finished.exists():
            stage = self.recipe.controlnet
            sampler = Sampler(caches, self._tile, stage.zoom2_share, stage.rare_class)
            seed = self.recipe.seed + 30
            folder = self.work / "controlnet"
            _save(train_controlnet(unet, sampler, text, stage, folder, seed, self.progress), finished)
        return ControlNetModel.from_pretrained(finished)

    def _assemble(self) -> Path:
        """Write ``prior/`` as a plain diffusers pipeline folder and swap the ControlNet onto it, in fp16."""
        prior, out = self.work / "prior", self.work / "model"
        shutil.rmtree(prior, ignore_errors=True)
        shutil.rmtree(out, ignore_errors=True)
        _save_half(AutoencoderKL, self.work / "vae", prior / "vae")
        _save_half(UNet2DConditionModel, self.work / "unet", prior / "unet")
        encoder = write_text_model(prior, self.recipe.seed)
        encoder.half().save_pretrained(prior / "text_encoder")
        _write_json(prior / "scheduler" / "scheduler_config.json", SCHEDULER)
        _write_json(prior / "model_index.json", PIPELINE_INDEX)
        defaults = {
            "name": "city",
            "label_height": self.recipe.height,
            "guidance_scale": self.recipe.guidance_scale,
        }
        _write_json(prior / "dgkit.json", defaults)
        _save_half(ControlNetModel, self.work / "controlnet", self.work / "controlnet" / "fp16")
        swap(prior, self.work / "controlnet" / "fp16", out)
        return out


def _report(progress: Progress | None, name: str, done: int, total: int) -> None:
    if progress:
        progress(name, done, total, 0.0)


def _write_json(path: Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _save_half(
    kind: type[AutoencoderKL] | type[UNet2DConditionModel] | type[ControlNetModel], stage: Path, out: Path
) -> None:
    """Write the finished network of ``stage`` in fp16, without the path it was read from."""
    kind.from_pretrained(stage / "finished").half().save_pretrained(out)
    path = out / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    _write_json(path, config)


def _save(network: AutoencoderKL | UNet2DConditionModel | ControlNetModel, folder: Path) -> None:
    """Save so that ``folder`` exists only when complete."""
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    network.save_pretrained(temporary)
    temporary.rename(folder)
