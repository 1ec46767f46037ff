"""The recipe of the embedded city model: every number of its training, with units, and nowhere else."""

from pydantic import Field

from dgkit.config import Config
from dgkit.training.loop.optimisation import Optimisation, Precision


class Scenes(Config):
    """How many procedural scenes of one role are rendered, at which zoom.

    Zoom 1 is a scene of ``height`` x 2 ``height`` pixels; zoom 2 renders at twice that size, so that a crop of the
    model's size shows what one tile of the sampler's second pass shows.
    """

    zoom1: int = Field(4000, ge=1, description="scenes at zoom 1")
    zoom2: int = Field(1000, ge=0, description="scenes at zoom 2")


class SourceScenes(Scenes):
    """The labelled source needs fewer: it has one look."""

    zoom1: int = 3200
    zoom2: int = 900


class CityStage(Optimisation):
    """A stage of the city: computed in bf16, and constant until its last quarter, so that it can be made longer."""

    precision: Precision = "bf16"
    validate_every: int = Field(1000, ge=0, description="steps between validations, and one at the end; 0 = off")
    cuda_graph: bool = Field(True, description="on a GPU, replay a step's kernels as one CUDA graph")


class VaeStage(CityStage):
    """Autoencoder: L1 + gradient + chroma + KL on square crops (weights of the terms below)."""

    steps: int = 2500
    batch: int = 32
    ema: float = 0.995
    crop: int = Field(128, ge=32, description="side of the training crops, pixels")
    gradient: float = Field(0.5, ge=0, description="weight of the L1 of horizontal and vertical differences")
    chroma: float = Field(0.5, ge=0, description="weight of |d(R-G)| + |d(B-G)|")
    kl: float = Field(1e-4, ge=0, description="weight of the KL divergence per latent value")
    whitening: float = Field(
        0.5, ge=0, le=1, description="1 gives all principal axes of the latents one variance, 0 keeps their ratios"
    )


class DiffusionStage(CityStage):
    """UNet on cached latents: v-prediction mean squared error."""

    steps: int = 6000
    batch: int = 128
    lr: float = 1.2e-3
    warmup: int = 200
    zoom2_share: float = Field(0.35, ge=0, le=1, description="share of samples cut from zoom-2 scenes")
    empty_prompt: float = Field(0.1, ge=0, le=1, description="share of samples whose caption is emptied")
    high_noise: float = Field(0.2, ge=0, le=1, description="share of timesteps redrawn above 600")


class FinetuneStage(DiffusionStage):
    """The prior UNet on the source look, without captions, as published (DGInStyle, README: empty instance prompt)."""

    steps: int = 2500
    batch: int = 64
    lr: float = 8e-4
    warmup: int = 50
    ema: float = 0.995
    empty_prompt: float = Field(1.0, ge=0, le=1, description="share of samples whose caption is emptied")


class ControlNetStage(DiffusionStage):
    """ControlNet on the source UNet, with rare class sampling."""

    steps: int = 4000
    lr: float = 1e-3
    zero_conv_lr: float = Field(4.0, gt=0, description="learning rate of the zero convolutions, times lr")
    rare_class: float = Field(0.5, ge=0, le=1, description="share of crops drawn by rare class sampling")


class DecoderStage(CityStage):
    """The decoder once more, on latents with noise, as a sampler leaves some; weights of the loss as in VaeStage."""

    steps: int = Field(1500, ge=0, description="optimizer steps; 0 leaves this stage out")
    batch: int = 32
    lr: float = 5e-4
    ema: float = 0.995
    crop: int = Field(128, ge=32, description="side of the training crops, pixels")
    noise: float = Field(0.3, ge=0, description="highest standard deviation of the noise on the (whitened) latents")
    gradient: float = Field(0.5, ge=0, description="weight of the L1 of horizontal and vertical differences")
    chroma: float = Field(0.5, ge=0, description="weight of |d(R-G)| + |d(B-G)|")
    zoom2_share: float = Field(0.35, ge=0, le=1, description="share of samples cut from zoom-2 scenes")


class CityRecipe(Config):
    """The whole training: scenes, autoencoder, prior, source fine-tune, ControlNet, decoder, swap."""

    seed: int = 0
    height: int = Field(256, description="height of a zoom-1 scene and side of the model's images, pixels")
    workers: int | None = Field(None, ge=1, description="processes that render; null: one per core")
    prior: Scenes = Scenes()
    source: SourceScenes = SourceScenes()
    vae: VaeStage = VaeStage()
    unet: DiffusionStage = DiffusionStage()
    finetune: FinetuneStage = FinetuneStage()
    controlnet: ControlNetStage = ControlNetStage()
    decoder: DecoderStage = DecoderStage()
    guidance_scale: float = Field(1.2, gt=0, description="guidance scale written into the model folder as its default")
