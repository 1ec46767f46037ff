"""``dgkit train vae|ldm|controlnet``: from a recipe to a folder that diffusers loads.

``OUT/config.yaml`` is the resolved recipe, ``OUT/training/`` holds checkpoints, logs and validation pictures. Running
the same recipe again goes on where it stopped, and does nothing but write the result once it is finished.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel

from dgkit.errors import UsageError
from dgkit.files import cache_folder
from dgkit.progress import Progress, within
from dgkit.training.city.small_networks import build_controlnet
from dgkit.training.data.data_rows import build_feed
from dgkit.training.data.feed import Feed
from dgkit.training.data.latents import with_cached_latents
from dgkit.training.diffusion.controlnet import ControlNetTask, condition_widths
from dgkit.training.diffusion.diffusion_recipes import ControlNetTraining, Diffusion, LdmTraining, Training, VaeTraining
from dgkit.training.diffusion.ldm import LdmTask, write_pipeline
from dgkit.training.diffusion.noising import DTYPES, Noising
from dgkit.training.diffusion.starting_model import Model, find_training_model, replace_folder, save_network
from dgkit.training.diffusion.vae import VaeTask
from dgkit.training.diffusion.validation import Painter, middle
from dgkit.training.loop.optimisation import FREE_ON_RESUME
from dgkit.training.loop.times import timed
from dgkit.training.loop.trainer import Task, fit
from dgkit.training.loop.training_folder import main_process, open_training_folder

# May change between two runs of one training: nothing of it reaches the weights.
_FREE = frozenset({"out", "validation", "gradient_checkpointing", *(f"train.{name}" for name in FREE_ON_RESUME)})


def train_ldm(config: LdmTraining, progress: Progress | None = None) -> Mapping[str, Any]:
    """Fine-tune a UNet and write a pipeline folder with it: the model's own, but for ``unet/``.

    Returns what was made. Raises UsageError where ``config.out`` holds a run of another recipe, and what :func:`fit`
    raises.
    """
    out = open_training_folder(config.out, config, _FREE)
    model = find_training_model(config.model, config.seed)
    unet = model.unet()
    size = _size(config, int(unet.config.sample_size), model)
    noising = _noising(config, model, size, progress)
    task = LdmTask(
        unet,
        noising,
        lora=config.lora,
        gradient_checkpointing=config.gradient_checkpointing,
        painter=_painter(config, noising, size),
        prompts=config.validation.prompts,
        checked=config.validation.samples,
    )
    _fit(task, config, out, progress)
    if main_process():
        task.finish(out)
        unet.disable_gradient_checkpointing()
        write_pipeline(unet, model, out)
    return _result("ldm", config, out, f"dgkit train controlnet RECIPE --set model={out}")


def train_controlnet(config: ControlNetTraining, progress: Progress | None = None) -> Mapping[str, Any]:
    """Train a ControlNet on the frozen UNet of ``config.model`` and write its diffusers folder.

    Returns what was made. Raises UsageError where ``config.out`` holds a run of another recipe, and what :func:`fit`
    raises.
    """
    out = open_training_folder(config.out, config, _FREE)
    model = find_training_model(config.model, config.seed)
    unet = model.unet()
    size = _size(config, int(unet.config.sample_size), model)
    noising = _noising(config, model, size, progress, labels=True)
    torch.manual_seed(config.seed)
    controlnet = build_controlnet(unet, condition_widths(noising.factor))
    look = config.validation
    task = ControlNetTask(
        controlnet,
        unet,
        noising,
        zero_conv_lr=config.zero_conv_lr,
        gradient_checkpointing=config.gradient_checkpointing,
        painter=_painter(config, noising, size),
        prior=find_training_model(look.prior).unet() if look.prior and look.labels else None,
        labels=[middle(path, look.encoding, size) for path in look.labels],
        styles=look.styles,
        checked=look.samples,
    )
    _fit(task, config, out, progress)
    if main_process():
        _write_network(controlnet, out)
    prior = look.prior or "PRIOR"
    return _result("controlnet", config, out, f"dgkit swap {prior} {out} MODEL")


def train_vae(config: VaeTraining, progress: Progress | None = None) -> Mapping[str, Any]:
    """Train the autoencoder of ``config.model`` and write its diffusers folder.

    Its latents are not those of before: a UNet must be trained on them anew. Returns what was made. Raises as
    :func:`train_ldm`.
    """
    out = open_training_folder(config.out, config, _FREE)
    model = find_training_model(config.model, config.seed)
    vae = model.vae()
    size = config.size or int(vae.config.sample_size)
    task = VaeTask(
        vae,
        _feed(config, size, progress),
        seed=config.seed,
        gradient=config.gradient,
        chroma=config.chroma,
        kl=config.kl,
        checked=config.validation.samples,
    )
    _fit(task, config, out, progress)
    if main_process():
        _write_network(vae, out)
    return _result("vae", config, out, f"AutoencoderKL.from_pretrained('{out}')")


def _size(config: Training, tile: int, model: Model) -> int:
    """Side of the crops in pixels: the recipe's, or what ``tile`` latent cells show."""
    factor = 2 ** (len(model.vae().config.block_out_channels) - 1)
    size = config.size or tile * factor
    if size % factor:
        raise UsageError(
            f"size={size} is no multiple of the autoencoder's factor {factor}", f"use {size // factor * factor}"
        )
    return size


def _feed(config: Training, size: int, progress: Progress | None) -> Feed:
    return build_feed(config.data, size, config.seed, progress=progress)


def _noising(config: Diffusion, model: Model, size: int, progress: Progress | None, labels: bool = False) -> Noising:
    feed = _feed(config, size, progress)
    dtype = DTYPES[config.train.precision]
    if config.data.cache_latents:
        vae = model.vae().to("cuda" if torch.cuda.is_available() else "cpu")
        precision = None if dtype == torch.float32 else dtype
        report = within(progress, "latents")
        feed = with_cached_latents(feed, vae, cache_folder() / "training", precision=precision, progress=report)
    return Noising(
        model,
        feed,
        config.objective,
        seed=config.seed,
        precision=config.train.precision,
        labels=labels,
        text_cache=cache_folder() / "training" if config.cache_text else None,
    )


def _painter(config: LdmTraining | ControlNetTraining, noising: Noising, size: int) -> Painter:
    look = config.validation
    return Painter(noising, size=size, steps=look.steps, guidance_scale=look.guidance_scale, seed=config.seed)


def _fit(task: Task, config: Training, out: Path, progress: Progress | None) -> None:
    folder = out / "training"
    if main_process():
        with timed(folder, task.name, progress) as noting:
            fit(task, config.train, folder, progress=noting)
    else:
        fit(task, config.train, folder)


def _write_network(network: AutoencoderKL | ControlNetModel, out: Path) -> None:
    """Put the network's files into ``out`` beside the recipe, ``config.json`` last."""
    staging = out / "training" / "result"
    replace_folder(staging, lambda folder: save_network(network, folder))
    for path in sorted(staging.iterdir(), key=lambda path: path.name == "config.json"):
        path.replace(out / path.name)
    staging.rmdir()


def _result(kind: str, config: Training, out: Path, following: str) -> Mapping[str, Any]:
    lines = (out / "training" / "log.csv").read_text(encoding="utf-8").splitlines()
    last = dict(zip(lines[0].split(","), map(float, lines[-1].split(",")), strict=True))
    return {"kind": kind, "out": str(out), "steps": config.train.steps, "loss": last["loss"], "next": following}
