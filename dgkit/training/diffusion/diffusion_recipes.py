"""The recipes of ``dgkit train vae|ldm|controlnet``: one configuration each, defaults stated here and nowhere else.

A recipe file holds one section for each command it serves, so that one file describes both stages of DGInStyle.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from dgkit.config import Config, load_config, read_recipe
from dgkit.errors import UsageError
from dgkit.prompts import STYLES
from dgkit.training.data.data_rows import FeedConfig
from dgkit.training.loop.optimisation import Optimisation


class Objective(Config):
    """The diffusion loss. What is predicted, noise or v, is the model's: scheduler/scheduler_config.json."""

    min_snr_gamma: float | None = Field(None, gt=0)
    """cap of the signal-to-noise ratio in the loss weights (Hang et al. 2023 use 5); left out: no weights"""
    high_noise: float = Field(0.0, ge=0, le=1)
    """share of timesteps drawn again from high_noise_from up"""
    high_noise_from: int = Field(600, ge=0)
    """lowest timestep of those"""


class Lora(Config):
    """Low-rank adapters in place of the whole UNet (Hu et al. 2021)."""

    rank: int = Field(16, ge=1)
    """rank of every adapter"""
    alpha: float = Field(16.0, gt=0)
    """the adapters count alpha / rank times"""
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """ends of the names of the layers that get one"""


class Validation(Config):
    """What is looked at every train.validate_every steps: the loss on fixed samples, and pictures."""

    samples: int = Field(8, ge=0)
    """fixed samples behind the validation loss; 0: none"""
    steps: int = Field(20, ge=1)
    """DDIM steps of a picture"""
    guidance_scale: float = Field(7.5, ge=1)
    """guidance scale of a picture; 1: none"""


class LdmValidation(Validation):
    """Pictures of the UNet in training."""

    prompts: tuple[str, ...] = ()
    """one picture each"""


class ControlNetValidation(Validation):
    """Pictures of the ControlNet in training, on the prior UNet: one row a label map, its colours and then the styles.

    One pass at the model's size, without latent fusion.
    """

    labels: tuple[Path, ...] = ()
    """label maps; of each the middle is taken"""
    encoding: str = "train_ids"
    """ids of the label maps: train_ids, gta, ... as in dgkit generate"""
    styles: tuple[str, ...] = ("none", *STYLES)
    """one picture a label map and style"""
    prior: str | None = None
    """model whose UNet draws the pictures: the one that the ControlNet will be swapped onto; left out: model"""


class Training(Config):
    """What the commands share."""

    model: str
    """folder or hub id of a diffusers pipeline, or random:sd15: networks of that size with random weights"""
    out: Path | None = None
    """folder of the result; --out"""
    data: FeedConfig
    size: int | None = Field(None, ge=16)
    """side of the training crops, pixels; left out: the model's own"""
    seed: int = Field(0, ge=0)
    """of crops, captions, timesteps, noise and new weights"""
    train: Optimisation


class Diffusion(Training):
    """What both diffusion trainings share."""

    objective: Objective = Objective()
    cache_text: bool = False
    """keep the text of every distinct caption on disk, float16, so that each is encoded once"""
    gradient_checkpointing: bool = False
    """compute activations twice and keep fewer of them: less memory, about a third more time"""


class LdmTraining(Diffusion):
    """``dgkit train ldm``: the UNet on new pictures; autoencoder and text encoder are frozen."""

    lora: Lora | None = None
    """train adapters only and merge them into the UNet at the end; left out: train the whole UNet"""
    validation: LdmValidation = LdmValidation()


class ControlNetTraining(Diffusion):
    """``dgkit train controlnet``: label maps steer the frozen UNet of ``model``."""

    zero_conv_lr: float = Field(1.0, gt=0)
    """learning rate of the zero convolutions, times train.lr"""
    validation: ControlNetValidation = ControlNetValidation()

    @model_validator(mode="after")
    def _labelled(self) -> Self:
        if not self.data.labelled:
            raise ValueError("data.rows: every row must have label maps")
        return self


class VaeTraining(Training):
    """``dgkit train vae``: encoder and decoder on pictures: L1 + gradient + chroma + KL, without a discriminator."""

    gradient: float = Field(0.5, ge=0)
    """weight of the L1 of horizontal and vertical differences"""
    chroma: float = Field(0.5, ge=0)
    """weight of |d(R-G)| + |d(B-G)|"""
    kl: float = Field(1e-4, ge=0)
    """weight of the KL divergence per latent value"""
    validation: Validation = Validation()


class Recipe(Config):
    """A recipe file: a section for each command it serves."""

    vae: VaeTraining | None = None
    ldm: LdmTraining | None = None
    controlnet: ControlNetTraining | None = None


def load_training(section: str, recipe: Path, sets: Sequence[str] = (), out: Path | None = None) -> Training:
    """Section "vae", "ldm" or "controlnet" of ``recipe``; ``sets`` are relative to it, ``out`` wins over the recipe's.

    Raises InputError, UsageError.
    """
    if section not in read_recipe(recipe):
        raise UsageError(f"{recipe} has no section {section!r}", f"give a recipe for dgkit train {section}")
    paths = [f"{section}.{text}" for text in sets]
    flags = {} if out is None else {section: {"out": out}}
    loaded: Training = getattr(load_config(Recipe, recipe, paths, **flags), section)
    if loaded.out is None:
        raise UsageError(f"{recipe} states no output folder", "add --out FOLDER")
    return loaded
