"""``dgkit train vae|ldm|controlnet``: from a recipe to a folder that diffusers loads.

``OUT/config.yaml`` is the resolved recipe, ``OUT/training/`` holds checkpoints, logs and validation images. Running the
same recipe again resumes it; a finished run only writes its result again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

from dgkit.errors import UsageError
from dgkit.files import cache_folder
from dgkit.progress import Progress, within
from dgkit.training.data.data_rows import build_feed
from dgkit.training.data.latents import with_cached_latents
from dgkit.training.diffusion.controlnet import ControlNetTask, build_controlnet, condition_widths
from dgkit.training.diffusion.diffusion_recipes import ControlNetTraining, LdmTraining, Training, VaeTraining
from dgkit.training.diffusion.ldm import LdmTask, write_pipeline
from dgkit.training.diffusion.model_files import move_contents, replace_folder, save_network
from dgkit.training.diffusion.noising import DTYPES, Noising
from dgkit.training.diffusion.starting_model import StartingModel, find_training_model
from dgkit.training.diffusion.vae import VaeTask
from dgkit.training.diffusion.validation_images import ImagePainter, central_crop
from dgkit.training.loop.optimisation import FREE_ON_RESUME
from dgkit.training.loop.task import TrainingTask
from dgkit.training.loop.times import timed
from dgkit.training.loop.trainer import fit
from dgkit.training.loop.training_folder import main_process, open_training_folder

# May change between two runs of one training, as they do not affect the weights.
_FREE = frozenset({"out", "validation", "gradient_checkpointing", *(f"train.{name}" for name in FREE_ON_RESUME)})


def train_vae(config: VaeTraining, progress: Progress | None = None) -> Mapping[str, Any]:
    """Train the autoencoder of ``config.model`` and write its diffusers folder.

    Its latents differ from the old ones, so a UNet must be trained on them afterwards. Returns and raises as
    :func:`train_ldm`.
    """
    out = open_training_folder(config.out, config, _FREE)
    vae = find_training_model(config.model, config.seed).vae()
    size = config.size or int(vae.config.sample_size)
    task = VaeTask(
        vae,
        build_feed(config.data, size, config.seed, progress=progress),
        seed=config.seed,
        gradient=config.gradient,
        chroma=config.chroma,
        kl=config.kl,
        validation_samples=config.validation.samples,
    )
    _fit(task, config, out, progress, lambda: _write_network(vae, out))
    return _result("vae", config, out, f"AutoencoderKL.from_pretrained('{out}')")


def train_ldm(config: LdmTraining, progress: Progress | None = None) -> Mapping[str, Any]:
    """Fine-tune a UNet and write a pipeline folder that has the new ``unet/`` and the other parts of ``config.model``.

    Returns the kind, output folder, steps, last loss and next command. Raises UsageError if ``config.out`` holds a run
    of another recipe, and what :func:`fit` raises.
    """
    parts = _prepare(config, progress)
    task = LdmTask(
        parts.unet,
        parts.noising,
        lora=config.lora,
        gradient_checkpointing=config.gradient_checkpointing,
        painter=parts.painter,
        prompts=config.validation.prompts,
        validation_samples=config.validation.samples,
    )

    def write() -> None:
        task.finish(parts.out)
        parts.unet.disable_gradient_checkpointing()
        write_pipeline(parts.unet, parts.model, parts.out)

    _fit(task, config, parts.out, progress, write)
    return _result("ldm", config, parts.out, f"dgkit train controlnet RECIPE --set model={parts.out}")


def train_controlnet(config: ControlNetTraining, progress: Progress | None = None) -> Mapping[str, Any]:
    """Train a ControlNet on the frozen UNet of ``config.model`` and write its diffusers folder.

    Returns and raises as :func:`train_ldm`.
    """
    parts = _prepare(config, progress, labels=True)
    validation = config.validation
    torch.manual_seed(config.seed)
    controlnet = build_controlnet(parts.unet, condition_widths(parts.noising.factor))
    task = ControlNetTask(
        controlnet,
        parts.unet,
        parts.noising,
        zero_conv_lr=config.zero_conv_lr,
        gradient_checkpointing=config.gradient_checkpointing,
        painter=parts.painter,
        prior=find_training_model(validation.prior).unet() if validation.prior and validation.labels else None,
        labels=[central_crop(path, validation.encoding, parts.painter.size) for path in validation.labels],
        styles=validation.styles,
        validation_samples=validation.samples,
    )
    _fit(task, config, parts.out, progress, lambda: _write_network(controlnet, parts.out))
    return _result("controlnet", config, parts.out, f"dgkit swap {validation.prior or 'PRIOR'} {parts.out} MODEL")


COMMANDS: dict[str, Callable[..., Mapping[str, Any]]] = {
    "vae": train_vae,
    "ldm": train_ldm,
    "controlnet": train_controlnet,
}
"""The trainings by the name of their recipe section; each takes its configuration and ``progress``."""


@dataclass(frozen=True)
class _DiffusionParts:
    """What the trainings of UNet and ControlNet start from."""

    out: Path
    model: StartingModel
    unet: UNet2DConditionModel
    noising: Noising
    painter: ImagePainter


def _prepare(
    config: LdmTraining | ControlNetTraining, progress: Progress | None, labels: bool = False
) -> _DiffusionParts:
    out = open_training_folder(config.out, config, _FREE)
    model = find_training_model(config.model, config.seed)
    unet = model.unet()
    size = _crop_size(config, int(unet.config.sample_size), model)
    noising = _noising(config, model, size, progress, labels)
    steps, guidance_scale = config.validation.steps, config.validation.guidance_scale
    painter = ImagePainter(noising, size=size, steps=steps, guidance_scale=guidance_scale, seed=config.seed)
    return _DiffusionParts(out, model, unet, noising, painter)


def _crop_size(config: Training, tile: int, model: StartingModel) -> int:
    """Return the side of the crops in pixels: the recipe's, or that of ``tile`` latent cells."""
    factor = 2 ** (len(model.vae().config.block_out_channels) - 1)
    size = config.size or tile * factor
    if size % factor:
        raise UsageError(
            f"size={size} is not a multiple of the autoencoder's factor {factor}", f"use size={size // factor * factor}"
        )
    return size


def _noising(
    config: LdmTraining | ControlNetTraining, model: StartingModel, size: int, progress: Progress | None, labels: bool
) -> Noising:
    feed = build_feed(config.data, size, config.seed, progress=progress)
    cache = cache_folder() / "training"
    if config.data.cache_latents:
        dtype = DTYPES[config.train.precision]
        precision = None if dtype == torch.float32 else dtype
        vae = model.vae().to("cuda" if torch.cuda.is_available() else "cpu")
        feed = with_cached_latents(feed, vae, cache, precision=precision, progress=within(progress, "latents"))
    return Noising(
        model,
        feed,
        config.objective,
        seed=config.seed,
        precision=config.train.precision,
        labels=labels,
        text_cache=cache if config.cache_text else None,
    )


def _fit(task: TrainingTask, config: Training, out: Path, progress: Progress | None, write: Callable[[], None]) -> None:
    """Train ``task``; then the main process writes the result."""
    folder = out / "training"
    if not main_process():
        fit(task, config.train, folder)
        return
    with timed(folder, task.name, progress) as report:
        fit(task, config.train, folder, progress=report)
    write()


def _write_network(network: AutoencoderKL | ControlNetModel, out: Path) -> None:
    """Write the network's files to ``out``, next to the recipe, ``config.json`` last."""
    staging = out / "training" / "result"
    replace_folder(staging, lambda folder: save_network(network, folder))
    move_contents(staging, out, last="config.json")


def _result(kind: str, config: Training, out: Path, following: str) -> Mapping[str, Any]:
    lines = (out / "training" / "log.csv").read_text(encoding="utf-8").splitlines()
    last = dict(zip(lines[0].split(","), map(float, lines[-1].split(",")), strict=True))
    return {"kind": kind, "out": str(out), "steps": config.train.steps, "loss": last["loss"], "next": following}
