"""The recipes of ``dgkit train vae|ldm|controlnet``: one configuration each, with all defaults.

A recipe file has one section per command, so that one file describes both stages of DGInStyle.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from dgkit.config import Config, load_config, read_recipe
from dgkit.errors import UsageError
from dgkit.prompts import STYLES
from dgkit.training.data.data_rows import FeedConfig
from dgkit.training.loop.optimisation import MAX_SEED, Optimisation

GradientWeight = Annotated[float, Field(ge=0, description="weight of the L1 of horizontal and vertical differences")]
ChromaWeight = Annotated[float, Field(ge=0, description="weight of |d(R-G)| + |d(B-G)|")]


def _ordered(bounds: tuple[int, int]) -> tuple[int, int]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"t={list(bounds)}: the first timestep is above the last, use {sorted(bounds)}")
    return bounds


Timestep = Annotated[int, Field(ge=0)]
RewardWeight = Annotated[float, Field(ge=0, allow_inf_nan=False, description="weight of the teacher's cross entropy")]
RewardRange = Annotated[
    tuple[Timestep, Timestep], AfterValidator(_ordered), Field(description="first and last timestep with the reward")
]
ClassWeights = dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
KlWeight = Annotated[float, Field(ge=0, description="weight of the KL divergence per latent value")]


class RewardSettings(Config):
    """A further loss term for a ControlNet: a frozen segmenter reads the label map in the denoised image.

    The term is the cross entropy of the segmenter on the decoded one-step prediction, at low noise only.
    """

    teacher: Path
    """segmenter that reads the images: a .safetensors file of dgkit train judge, a checkpoint of mmsegmentation, or a
    transformers folder"""
    weight: RewardWeight = 0.5
    """weight of the cross entropy"""
    t: RewardRange = (20, 260)
    """first and last timestep with the term"""
    share: float = Field(1.0, ge=0, le=1)
    """share of timesteps redrawn from t; 1 is for fine-tuning a finished ControlNet"""
    class_weights: ClassWeights = Field({})
    """weights of pixels by the class of their label, e.g. {person: 4}; default: 1"""


class Objective(Config):
    """The diffusion loss. The model's scheduler/scheduler_config.json decides whether noise or v is predicted."""

    min_snr_gamma: float | None = Field(None, gt=0)
    """cap of the signal-to-noise ratio in the loss weights (Hang et al. 2023: 5); default: no weights"""
    high_noise: float = Field(0.0, ge=0, le=1)
    """share of timesteps redrawn from high_noise_from up"""
    high_noise_from: int = Field(600, ge=0)
    """lowest redrawn timestep"""
    reward: RewardSettings | None = None
    """reward for readable images, for a ControlNet only; default: none"""


class Lora(Config):
    """Low-rank adapters instead of the whole UNet (Hu et al. 2021)."""

    rank: int = Field(16, ge=1)
    """rank of the adapters"""
    alpha: float = Field(16.0, gt=0)
    """the adapters are scaled by alpha / rank"""
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """layers with an adapter, by the ends of their names"""


class ValidationSettings(Config):
    """Validation every train.validate_every steps: the loss on fixed samples, and images."""

    samples: int = Field(8, ge=0)
    """fixed samples for the validation loss; 0: none"""
    steps: int = Field(20, ge=1)
    """DDIM steps per image"""
    guidance_scale: float = Field(7.5, ge=1)
    """guidance scale of the images; 1: no guidance"""


class LdmValidation(ValidationSettings):
    """Images of the UNet in training."""

    prompts: tuple[str, ...] = ()
    """prompts, one image each"""


class ControlNetValidation(ValidationSettings):
    """Images of the ControlNet in training on the prior UNet: per label map a row of its colours and all styles.

    Each is one pass at the model's size, without latent fusion.
    """

    labels: tuple[Path, ...] = ()
    """label maps, of which the middle is used"""
    encoding: str = "train_ids"
    """encoding of the label maps: train_ids, gta, ... as in dgkit generate"""
    styles: tuple[str, ...] = ("none", *STYLES)
    """styles, one image each per label map"""
    prior: str | None = None
    """model whose UNet paints the images, onto which the ControlNet will be swapped; default: model"""


class Training(Config):
    """Settings of all three commands."""

    model: str
    """folder or hub id of a diffusers pipeline; random:sd15, sd21 or sdxl: its networks with random weights"""
    out: Path | None = None
    """output folder; --out"""
    data: FeedConfig
    size: int | None = Field(None, ge=16)
    """side of the training crops in pixels; default: the model's image size"""
    seed: int = Field(0, ge=0, le=MAX_SEED)
    """random seed of crops, captions, timesteps, noise and new weights"""
    train: Optimisation


class DiffusionTraining(Training):
    """Settings of both diffusion trainings."""

    objective: Objective = Objective()
    cache_text: bool = False
    """cache the text embedding of each distinct caption on disk, in float16"""
    gradient_checkpointing: bool = False
    """recompute activations instead of storing them: less memory, about a third more time"""


class LdmTraining(DiffusionTraining):
    """``dgkit train ldm``: the UNet on new images; autoencoder and text encoder are frozen."""

    lora: Lora | None = None
    """train adapters only and merge them into the UNet at the end; default: train the whole UNet"""
    validation: LdmValidation = LdmValidation()

    @model_validator(mode="after")
    def _without_labels(self) -> Self:
        if self.objective.reward is not None:
            raise ValueError("objective.reward needs label maps: it is for dgkit train controlnet only, remove it")
        return self


class ControlNetTraining(DiffusionTraining):
    """``dgkit train controlnet``: label maps steer the frozen UNet of ``model``."""

    controlnet: str | None = None
    """folder or hub id of a ControlNet, or of a model with one, to start from; default: a copy of the UNet's encoder"""
    zero_conv_lr: float = Field(1.0, gt=0)
    """learning rate of the zero convolutions relative to train.lr"""
    validation: ControlNetValidation = ControlNetValidation()

    @model_validator(mode="after")
    def _labelled(self) -> Self:
        if not self.data.labelled:
            raise ValueError("data.rows: every row must have label maps")
        if self.objective.reward is not None and self.train.cuda_graph:
            raise ValueError("objective.reward cannot be combined with train.cuda_graph=true, use false")
        return self


class VaeTraining(Training):
    """``dgkit train vae``: encoder and decoder on images; L1 + gradient + chroma + KL, without a discriminator."""

    gradient: GradientWeight = 0.5
    chroma: ChromaWeight = 0.5
    kl: KlWeight = 1e-4
    validation: ValidationSettings = ValidationSettings()


class DiffusionRecipe(Config):
    """A recipe file with a section for each command it supports."""

    vae: VaeTraining | None = None
    ldm: LdmTraining | None = None
    controlnet: ControlNetTraining | None = None


def load_training(section: str, recipe: Path, sets: Sequence[str] = (), out: Path | None = None) -> Training:
    """Read section "vae", "ldm" or "controlnet" of ``recipe``; ``sets`` are relative to it, ``out`` overrides its own.

    Raises InputError, UsageError.
    """
    values = read_recipe(recipe)
    unknown = [key for key in values if key not in DiffusionRecipe.model_fields]
    if unknown:
        known = ", ".join(DiffusionRecipe.model_fields)
        raise UsageError(f"{recipe}: unknown section {unknown[0]!r}, allowed: {known}", "remove it, or fix its name")
    if not isinstance(values.get(section), dict):
        raise UsageError(f"{recipe} has no section {section!r}", f"use a recipe for dgkit train {section}")
    paths = [f"{section}.{text}" for text in sets]
    flags = {} if out is None else {section: {"out": out}}
    # The other sections belong to other commands and may be incomplete.
    loaded: Training = getattr(load_config(DiffusionRecipe, {section: values[section]}, paths, **flags), section)
    if loaded.out is None:
        raise UsageError(f"{recipe} has no output folder", "add --out FOLDER")
    return loaded
