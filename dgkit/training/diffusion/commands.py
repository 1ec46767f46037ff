"""``dgkit train vae|ldm|controlnet``: from a recipe to a folder that diffusers loads.

``OUT/config.yaml`` is the resolved recipe, ``OUT/training/`` holds checkpoints, logs and validation images, and, once
the result is complete, ``result.json`` with its digests. Running the same recipe again resumes it. For a finished run
nothing is computed; a result with a missing or damaged file is written again from the last checkpoint. A run writes
nothing to ``OUT`` before model, data and settings have been loaded and checked, and only one run at a time may do so.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

from dgkit.diffusion.model_folder import condition_text
from dgkit.diffusion.part_fit import is_sdxl
from dgkit.errors import UsageError
from dgkit.files import cache_folder
from dgkit.progress import Notify, Progress, within
from dgkit.taxonomies import CITYSCAPES19, Taxonomy, find_taxonomy
from dgkit.training.data.data_rows import build_feed
from dgkit.training.data.latents import with_cached_latents
from dgkit.training.diffusion.controlnet import ControlNetTask, build_controlnet, condition_widths
from dgkit.training.diffusion.diffusion_recipes import ControlNetTraining, LdmTraining, Training, VaeTraining
from dgkit.training.diffusion.ldm import LdmTask, write_pipeline
from dgkit.training.diffusion.model_files import move_contents, replace_folder, save_network
from dgkit.training.diffusion.noising import DTYPES, Noising
from dgkit.training.diffusion.reward import Reward, open_reward
from dgkit.training.diffusion.starting_model import StartingModel, find_training_model, read_controlnet
from dgkit.training.diffusion.vae import VaeTask
from dgkit.training.diffusion.validation_images import ImagePainter, central_crop
from dgkit.training.loop.integrity import find_result, record_result
from dgkit.training.loop.optimisation import FREE_ON_RESUME
from dgkit.training.loop.task import TrainingTask
from dgkit.training.loop.times import timed
from dgkit.training.loop.trainer import fit
from dgkit.training.loop.training_folder import (
    check_training_folder,
    main_process,
    remove_stale,
    sole_training,
    write_recipe,
)
from dgkit.training.loop.training_log import last_loss

# May change between two runs of one training, as they do not affect the weights.
_FREE = frozenset({"out", "validation", "gradient_checkpointing", *(f"train.{name}" for name in FREE_ON_RESUME)})


def train_vae(config: VaeTraining, progress: Progress | None = None, notify: Notify | None = None) -> Mapping[str, Any]:
    """Train the autoencoder of ``config.model`` and write its diffusers folder.

    Its latents differ from the old ones, so a UNet must be trained on them afterwards. Returns and raises as
    :func:`train_ldm`.
    """
    with _training(config, notify) as run:
        if not run.finished:
            vae = find_training_model(config.model, config.seed).vae()
            size = config.size or int(vae.config.sample_size)
            task = VaeTask(
                vae,
                build_feed(config.data, size, config.seed, progress=progress, notify=notify),
                seed=config.seed,
                gradient=config.gradient,
                chroma=config.chroma,
                kl=config.kl,
                validation_samples=config.validation.samples,
            )
            _fit(task, run, progress, lambda: _write_network(vae, run.out))
        return _result("vae", run, f"AutoencoderKL.from_pretrained('{run.out}')")


def train_ldm(config: LdmTraining, progress: Progress | None = None, notify: Notify | None = None) -> Mapping[str, Any]:
    """Fine-tune a UNet and write a pipeline folder that has the new ``unet/`` and the other parts of ``config.model``.

    Returns the kind, output folder, steps, last loss, next command, and whether the training was finished already.
    Raises UsageError if ``config.out`` holds a run of another recipe, OutputError if another run trains there, and what
    :func:`fit` raises.
    """
    with _training(config, notify) as run:
        if not run.finished:
            parts = _prepare(config, progress, notify)
            task = LdmTask(
                parts.unet,
                parts.noising,
                lora=config.lora,
                gradient_checkpointing=config.gradient_checkpointing,
                painter=parts.painter,
                prompts=config.validation.prompts,
                validation_samples=config.validation.samples,
            )

            def write() -> list[Path]:
                adapters = task.finish(run.out)
                parts.unet.disable_gradient_checkpointing()
                return [*adapters, *write_pipeline(parts.unet, parts.model, run.out)]

            _fit(task, run, progress, write)
        return _result("ldm", run, f"dgkit train controlnet RECIPE --set model={run.out}")


def train_controlnet(
    config: ControlNetTraining, progress: Progress | None = None, notify: Notify | None = None
) -> Mapping[str, Any]:
    """Train a ControlNet on the frozen UNet of ``config.model`` and write its diffusers folder.

    Returns and raises as :func:`train_ldm`.
    """
    validation = config.validation
    with _training(config, notify) as run:
        if not run.finished:
            parts = _prepare(config, progress, notify, labels=True)
            controlnet = _starting_controlnet(config, parts)
            prior = validation.prior if validation.labels else None
            task = ControlNetTask(
                controlnet,
                parts.unet,
                parts.noising,
                zero_conv_lr=config.zero_conv_lr,
                reward=_reward(config, parts.noising),
                gradient_checkpointing=config.gradient_checkpointing,
                painter=parts.painter,
                prior=find_training_model(prior).unet() if prior else None,
                labels=[
                    central_crop(path, validation.encoding, parts.painter.size, parts.noising.taxonomy)
                    for path in validation.labels
                ],
                styles=validation.styles,
                validation_samples=validation.samples,
            )
            _fit(task, run, progress, lambda: _write_network(controlnet, run.out, parts.noising.taxonomy))
        return _result("controlnet", run, f"dgkit swap {validation.prior or 'PRIOR'} {run.out} MODEL")


COMMANDS: dict[str, Callable[..., Mapping[str, Any]]] = {
    "vae": train_vae,
    "ldm": train_ldm,
    "controlnet": train_controlnet,
}
"""The trainings by the name of their recipe section; each takes its configuration, ``progress`` and ``notify``."""


@dataclass(frozen=True)
class _TrainingRun:
    """A training whose folder is locked; ``finished``: its result is complete and intact."""

    config: Training
    out: Path
    finished: bool

    @property
    def folder(self) -> Path:
        """Folder of checkpoints and logs."""
        return self.out / "training"

    @property
    def record(self) -> Path:
        """File that proves that the result is complete."""
        return self.folder / "result.json"


@dataclass(frozen=True)
class _DiffusionParts:
    """What the trainings of UNet and ControlNet start from."""

    model: StartingModel
    unet: UNet2DConditionModel
    noising: Noising
    painter: ImagePainter


@contextlib.contextmanager
def _training(config: Training, notify: Notify | None) -> Iterator[_TrainingRun]:
    """Check and lock ``config.out`` without writing to it."""
    out = check_training_folder(config.out, config, _FREE)
    with sole_training(out):
        check_training_folder(out, config, _FREE)  # again: the run that held the lock may have begun meanwhile
        run = _TrainingRun(config, out, False)
        damage = find_result(run.record, out, steps=config.train.steps)
        if damage and notify and main_process():
            notify(f"the result in {out} is damaged and is written again: {damage}")
        yield replace(run, finished=damage == "")


def _prepare(
    config: LdmTraining | ControlNetTraining, progress: Progress | None, notify: Notify | None, labels: bool = False
) -> _DiffusionParts:
    model = find_training_model(config.model, config.seed)
    unet = model.unet()
    size = _crop_size(config, int(unet.config.sample_size), model)
    noising = _noising(config, model, size, progress, notify, labels, is_sdxl=is_sdxl(unet.config))
    steps, guidance_scale = config.validation.steps, config.validation.guidance_scale
    painter = ImagePainter(noising, size=size, steps=steps, guidance_scale=guidance_scale, seed=config.seed)
    return _DiffusionParts(model, unet, noising, painter)


def _starting_controlnet(config: ControlNetTraining, parts: _DiffusionParts) -> ControlNetModel:
    """Return the ControlNet that the recipe names, or a new one with the encoder of the UNet."""
    taxonomy = parts.noising.taxonomy
    if config.controlnet is not None:
        return read_controlnet(config.controlnet, taxonomy, parts.unet)
    torch.manual_seed(config.seed)
    return build_controlnet(parts.unet, condition_widths(parts.noising.factor), taxonomy.channels)


def _reward(config: ControlNetTraining, noising: Noising) -> Reward | None:
    settings = config.objective.reward
    return None if settings is None else open_reward(settings, noising.vae, noising.schedule, noising.taxonomy)


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
    config: LdmTraining | ControlNetTraining,
    model: StartingModel,
    size: int,
    progress: Progress | None,
    notify: Notify | None,
    labels: bool,
    is_sdxl: bool,
) -> Noising:
    feed = build_feed(config.data, size, config.seed, progress=progress, notify=notify)
    cache = cache_folder() / "training"
    if config.data.cache_latents:
        dtype = DTYPES[config.train.precision]
        vae = model.vae()
        overflows = is_sdxl and dtype == torch.float16 and vae.config.force_upcast
        precision = None if dtype == torch.float32 or overflows else dtype
        vae = vae.to("cuda" if torch.cuda.is_available() else "cpu")
        feed = with_cached_latents(feed, vae, cache, precision=precision, progress=within(progress, "latents"))
    return Noising(
        model,
        feed,
        config.objective,
        seed=config.seed,
        precision=config.train.precision,
        labels=labels,
        text_cache=cache if config.cache_text else None,
        taxonomy=find_taxonomy(config.data.taxonomy),
    )


def _fit(task: TrainingTask, run: _TrainingRun, progress: Progress | None, write: Callable[[], list[Path]]) -> None:
    """Train ``task``; then the main process writes the result, and last the record of its files."""
    settings = run.config.train
    if not main_process():
        fit(task, settings, run.folder)
        return

    def begin() -> None:
        write_recipe(run.out, run.config)
        run.record.unlink(missing_ok=True)
        for folder in (run.out, run.folder):
            remove_stale(folder)

    with timed(run.folder, task.name, progress) as report:
        fit(task, settings, run.folder, progress=report, begin=begin)
    record_result(run.record, run.out, write(), steps=settings.steps)


def _write_network(
    network: AutoencoderKL | ControlNetModel, out: Path, taxonomy: Taxonomy = CITYSCAPES19
) -> list[Path]:
    """Write the network's files to ``out``, next to the recipe, ``config.json`` last; return them."""
    staging, classes = out / "training" / "result", condition_text(taxonomy)

    def save(folder: Path) -> None:
        save_network(network, folder)
        if classes is not None:
            (folder / "dgkit.json").write_text(classes, encoding="utf-8")

    replace_folder(staging, save)
    return move_contents(staging, out, last="config.json")


def _result(kind: str, run: _TrainingRun, following: str) -> Mapping[str, Any]:
    return {
        "kind": kind,
        "out": str(run.out),
        "steps": run.config.train.steps,
        "loss": last_loss(run.folder),
        "next": following,
        "finished": run.finished,
    }
