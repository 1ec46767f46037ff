"""The embedded model from scratch: scenes, autoencoder, UNets, ControlNet, decoder, reward, style swap.

Every stage can be resumed; a finished stage is loaded from its folder ``finished`` if its files have the digests in
``result.json`` next to it. The file of that name in the work folder records the finished model.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextModel, CLIPTokenizer

from dgkit.diffusion.style_swap import swap
from dgkit.diffusion.weights import save_part
from dgkit.errors import ModelError, UsageError
from dgkit.optional import first_line
from dgkit.progress import Progress, within
from dgkit.resources import usable_cores
from dgkit.training.city.city_recipe import CityRecipe, CityStage, DiffusionStage, RewardStage
from dgkit.training.city.decoder import train_decoder
from dgkit.training.city.readable import draw_pictures, train_teacher
from dgkit.training.city.scene_latents import SceneLatents, cache_latents
from dgkit.training.city.small_networks import CONTROLNET_WIDTHS, SCHEDULER, VAE_FACTOR, build_unet, build_vae
from dgkit.training.city.text_model import write_text_model
from dgkit.training.city.whitening import whiten
from dgkit.training.data.caption_encoder import CaptionEncoder
from dgkit.training.data.feed import PromptDropout
from dgkit.training.data.rendered_scenes import SceneCache, SceneCounts, render_scenes
from dgkit.training.data.scene_feed import SceneFeed
from dgkit.training.diffusion.controlnet import ControlNetTask, build_controlnet
from dgkit.training.diffusion.diffusion_recipes import Objective
from dgkit.training.diffusion.ldm import LdmTask
from dgkit.training.diffusion.model_files import (
    PIPELINE_INDEX,
    replace_folder,
    save_finite,
    save_network,
    write_json,
)
from dgkit.training.diffusion.noising import Noising
from dgkit.training.diffusion.reward import Reward
from dgkit.training.diffusion.vae import VaeTask
from dgkit.training.diffusion.validation_images import ImagePainter
from dgkit.training.loop.integrity import check_finite, find_result, read_object, record_result
from dgkit.training.loop.optimisation import FREE_ON_RESUME
from dgkit.training.loop.times import timed
from dgkit.training.loop.trainer import fit
from dgkit.training.loop.training_folder import FolderTraining, remove_stale, write_recipe

PRESET = "fast:guidance_low=0.93"  # recommended by the model, see docs/results/presets.md
THINNED_PROMPTS = 0.5  # share of captions that lose some of their class words
STAGE_SEEDS = {"vae": 2, "unet": 10, "finetune": 20, "controlnet": 30, "decoder": 40, "reward": 50}
VALIDATION_SAMPLES = 16  # fixed samples for the validation loss
# May change between two runs of one training; the steps of a finished stage are compared with its result.
_FREE = frozenset(
    {"workers", "guidance_scale", *(f"{stage}.{name}" for stage in STAGE_SEEDS for name in FREE_ON_RESUME)}
)
_RESULT = "result.json"
_AGAIN = "to write it again from the last checkpoint"
SHOWN_LABELS, SHOWN_STYLES, SHOWN_STEPS = 1, ("snowy", "night"), 10  # validation images of the ControlNet

Network: TypeAlias = AutoencoderKL | UNet2DConditionModel | ControlNetModel
N = TypeVar("N", AutoencoderKL, UNet2DConditionModel, ControlNetModel)


@dataclass(frozen=True)
class CityNetworks:
    """The finished autoencoder and text encoder of a training, as the frozen networks of a diffusion training."""

    work: Path
    scheduler = SCHEDULER

    def vae(self) -> AutoencoderKL:
        """Return a new copy of the autoencoder."""
        vae = AutoencoderKL.from_pretrained(self.work / "vae" / "finished")
        return vae.to(memory_format=torch.channels_last).eval().requires_grad_(False)

    def text(self) -> CaptionEncoder:
        """Return the tokenizer and a new copy of the text encoder."""
        text = self.work / "text"
        return CaptionEncoder(
            CLIPTokenizer.from_pretrained(text / "tokenizer"), CLIPTextModel.from_pretrained(text / "text_encoder")
        )


@dataclass(frozen=True)
class CityTraining(FolderTraining[CityRecipe]):
    """A training in the folder ``work``; ``work/times.json`` holds the seconds of each stage, summed over all runs."""

    def run(self) -> Path:
        """Run every stage that is not finished and return the swapped model folder, ``work/model``.

        Nothing is computed if the model is finished and intact. Raises UsageError if ``work`` holds a training of
        another recipe, OutputError if another training runs there, ModelError for a damaged stage.
        """
        with self.opened(_FREE):
            damage = self._damage()
            if damage and self.notify:
                self.notify(f"the model in {self.work} is damaged and is written again: {damage}")
            if damage != "":
                write_recipe(self.work, self.recipe)
                self._train()
        return self.work / "model"

    def finished(self) -> bool:
        """Return whether the model of this recipe is complete and intact."""
        return self._damage() == ""

    def _damage(self) -> str | None:
        return find_result(self.work / _RESULT, self.work, **self._facts())

    def _facts(self) -> dict[str, object]:
        """Return what the model depends on beyond the keys of the recipe that may not change."""
        stages = {name: getattr(self.recipe, name) for name in STAGE_SEEDS}
        steps = {name: stage.steps for name, stage in stages.items() if stage is not None}
        return {"steps": steps, "guidance_scale": self.recipe.guidance_scale}

    def _train(self) -> None:
        for folder in (self.work, *(self.work / name for name in STAGE_SEEDS)):
            remove_stale(folder)
        prior_scenes = self._scenes("prior", self.recipe.prior)
        source_scenes = self._scenes("source", self.recipe.source)
        write_text_model(self.work / "text", self.recipe.seed)
        self._vae([*prior_scenes, *source_scenes])
        prior, source = self._latents("prior", prior_scenes), self._latents("source", source_scenes)
        unet = self._unet("unet", lambda: build_unet(self._tile), prior)
        finetuned = self._unet("finetune", lambda: self._finished("unet", UNet2DConditionModel), source)
        self._controlnet(finetuned, unet, source)
        if self.recipe.decoder.steps:
            self._decoder(prior, source)
        if self.recipe.reward is not None:
            self._reward(self.recipe.reward, unet, source_scenes)
        model = self._assemble("controlnet" if self.recipe.reward is None else "reward", self.work / "model")
        record_result(self.work / _RESULT, self.work, [model], **self._facts())

    @property
    def _tile(self) -> int:
        return self.recipe.height // VAE_FACTOR

    def _scenes(self, role: str, counts: SceneCounts) -> list[SceneCache]:
        caches = []
        for zoom, scenes in enumerate(counts.sets(role, self.recipe.seed, self.recipe.height), 1):
            name = f"scenes/{role}{zoom}"
            with timed(self.work, name, self.progress) as progress:
                workers = self.recipe.workers or len(usable_cores())
                caches.append(render_scenes(self.work / name, scenes, workers, within(progress, name)))
        return caches

    def _latents(self, role: str, caches: list[SceneCache]) -> SceneLatents:
        paths = [self.work / "scenes" / f"{role}{zoom}" / "latents.npy" for zoom in (1, 2)]
        with timed(self.work, f"latents/{role}", self.progress):
            vae = CityNetworks(self.work).vae().to("cuda" if torch.cuda.is_available() else "cpu")
            return SceneLatents(caches, [cache_latents(vae, *pair) for pair in zip(caches, paths, strict=False)])

    def _vae(self, caches: list[SceneCache]) -> None:
        def train(folder: Path, seed: int, progress: Progress) -> AutoencoderKL:
            for stale in self.work.glob("scenes/*/latents.npy"):  # of a previous autoencoder
                stale.unlink()
            stage = self.recipe.vae
            feed = SceneFeed(caches, stage.crop, flip=0.5)
            vae = build_vae(self.recipe.height)
            task = VaeTask(vae, feed, seed=seed, gradient=stage.gradient, chroma=stage.chroma, kl=stage.kl)
            fit(task, stage, folder, progress=progress)
            whiten(vae.eval().requires_grad_(False), caches, stage.whitening)
            return vae

        self._stage("vae", train)

    def _unet(self, name: str, start: Callable[[], UNet2DConditionModel], scenes: SceneLatents) -> UNet2DConditionModel:
        """Train the network that ``start`` returns, or load it if the stage is finished."""

        def train(folder: Path, seed: int, progress: Progress) -> UNet2DConditionModel:
            stage: DiffusionStage = getattr(self.recipe, name)
            unet = _plain_attention(start())
            task = LdmTask(unet, self._noising(scenes, stage, seed), validation_samples=VALIDATION_SAMPLES)
            task.name = name
            fit(task, stage, folder, progress=progress)
            return unet

        self._stage(name, train)
        return self._finished(name, UNet2DConditionModel)

    def _controlnet(self, unet: UNet2DConditionModel, prior: UNet2DConditionModel, scenes: SceneLatents) -> None:
        def train(folder: Path, seed: int, progress: Progress) -> ControlNetModel:
            stage, height = self.recipe.controlnet, self.recipe.height
            noising = self._noising(scenes, stage, seed, stage.rare_class, labels=True)
            scale = self.recipe.guidance_scale
            painter = ImagePainter(noising, size=height, steps=SHOWN_STEPS, guidance_scale=scale, seed=seed)
            controlnet = _plain_attention(build_controlnet(_plain_attention(unet), CONTROLNET_WIDTHS))
            task = ControlNetTask(
                controlnet,
                unet,
                noising,
                zero_conv_lr=stage.zero_conv_lr,
                painter=painter,
                prior=prior,
                labels=[label[:, :height] for label in scenes.caches[0].labels[:SHOWN_LABELS]],
                styles=SHOWN_STYLES,
                validation_samples=VALIDATION_SAMPLES,
            )
            fit(task, stage, folder, progress=progress)
            return controlnet

        self._stage("controlnet", train)

    def _decoder(self, prior: SceneLatents, source: SceneLatents) -> None:
        def train(folder: Path, seed: int, progress: Progress) -> AutoencoderKL:
            stage = self.recipe.decoder
            roles = (prior, source)
            # Roles are weighted by their numbers of scenes, as in the training of the autoencoder.
            shares = [s * sum(map(len, r.caches)) for r in roles for s in r.shares(stage.zoom2_share)]
            caches, latents = [c for r in roles for c in r.caches], [a for r in roles for a in r.latents]
            feed = SceneFeed(caches, stage.crop, shares=shares, latents=latents)
            return train_decoder(CityNetworks(self.work).vae(), feed, stage, folder, seed, progress)

        self._stage("decoder", train)

    def _reward(self, stage: RewardStage, unet: UNet2DConditionModel, source: list[SceneCache]) -> None:
        """Tune the ControlNet on the prior UNet, on images that the model of the stages before draws."""

        def train(folder: Path, seed: int, progress: Progress) -> ControlNetModel:
            teacher = train_teacher(self.work / "teacher", source, stage.teacher, seed, progress)
            start, height = self.work / "before_reward", self.recipe.height
            self._assemble("controlnet", start)
            pictures = draw_pictures(start, source[0], stage.pictures, height, seed, folder / "pictures.npz")
            feed, objective = SceneFeed([pictures], height), stage.objective()
            noising = Noising(
                CityNetworks(self.work), feed, objective, seed=seed, precision=stage.precision, labels=True
            )
            assert objective.reward is not None
            reward = Reward(objective.reward, teacher, noising.vae, noising.schedule)
            controlnet = _plain_attention(self._finished("controlnet", ControlNetModel))
            task = ControlNetTask(controlnet, _plain_attention(unet), noising, reward=reward)
            task.name = "reward"
            fit(task, stage, folder, progress=progress)
            return controlnet

        self._stage("reward", train)

    def _noising(
        self, scenes: SceneLatents, stage: DiffusionStage, seed: int, rare_share: float = 0.0, labels: bool = False
    ) -> Noising:
        crops = scenes.feed(self.recipe.height, stage.zoom2_share, rare_share)
        feed = PromptDropout(crops, stage.empty_prompt, THINNED_PROMPTS)
        objective = Objective(high_noise=stage.high_noise)
        return Noising(CityNetworks(self.work), feed, objective, seed=seed, precision=stage.precision, labels=labels)

    def _stage(self, name: str, train: Callable[[Path, int, Progress], Network]) -> None:
        """Train and save a stage unless it is finished."""
        folder = self.work / name
        stage: CityStage = getattr(self.recipe, name)
        if (folder / "finished").exists():
            self._check_stage(folder, stage.steps)
            return
        seed = self.recipe.seed + STAGE_SEEDS[name]
        with timed(self.work, name, self.progress) as progress:
            torch.manual_seed(seed)
            network = train(folder, seed, progress)
            replace_folder(folder / "finished", lambda new: save_finite(network, new))
            record_result(folder / _RESULT, folder, [folder / "finished"], steps=stage.steps)

    def _check_stage(self, folder: Path, steps: int) -> None:
        """Check a finished stage against its record; one of an earlier version, or killed before it, has none."""
        if not (folder / _RESULT).exists():
            return
        if damage := find_result(folder / _RESULT, folder):
            hint = f"delete {folder / 'finished'} {_AGAIN}"
            raise ModelError(f"the finished stage {folder} is damaged: {damage}", hint)
        done = read_object(folder / _RESULT).get("steps")
        if done != steps:
            raise UsageError(
                f"{folder} is finished with steps={done}; this recipe has {folder.name}.steps={steps}",
                f"use {folder.name}.steps={done}, or train in another folder",
            )

    def _finished(self, name: str, kind: type[N]) -> N:
        folder = self.work / name / "finished"
        try:
            network = kind.from_pretrained(folder).requires_grad_(False)
        except Exception as error:  # diffusers and safetensors raise many types for a damaged file
            raise ModelError(f"{folder} cannot be read: {first_line(error)}", f"delete {folder} {_AGAIN}") from error
        check_finite(network.state_dict(), str(folder), f"delete {folder} {_AGAIN}")
        return network

    def _assemble(self, stage: str, out: Path) -> Path:
        """Write ``prior/`` as a plain diffusers pipeline folder and swap a stage's ControlNet onto it, in fp16."""
        shutil.rmtree(out, ignore_errors=True)
        replace_folder(self.work / "prior", self._write_prior)
        controlnet = self.work / stage / "fp16"
        replace_folder(controlnet, lambda folder: save_network(self._half(stage, ControlNetModel), folder))
        swap(self.work / "prior", controlnet, out)
        return out

    def _write_prior(self, prior: Path) -> None:
        save_network(self._half("decoder" if self.recipe.decoder.steps else "vae", AutoencoderKL), prior / "vae")
        save_network(self._half("unet", UNet2DConditionModel), prior / "unet")
        encoder = write_text_model(prior, self.recipe.seed)
        save_part(encoder.half(), prior / "text_encoder")
        write_json(prior / "scheduler" / "scheduler_config.json", SCHEDULER)
        write_json(prior / "model_index.json", PIPELINE_INDEX)
        height, scale = self.recipe.height, self.recipe.guidance_scale
        write_json(
            prior / "dgkit.json", {"name": "city", "label_height": height, "guidance_scale": scale, "preset": PRESET}
        )

    def _half(self, name: str, kind: type[N]) -> N:
        return self._finished(name, kind).half()


def _plain_attention(network: N) -> N:
    """Compute attention as two matrix products: for 64 tokens the fused kernel's backward pass is slow on a CPU."""
    network.set_attn_processor(AttnProcessor())
    return network
