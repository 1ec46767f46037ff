"""The recipe of the embedded city model: all values of its training, with units."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from dgkit.config import Config
from dgkit.training.data.rendered_scenes import SceneCounts, Zoom1, Zoom2
from dgkit.training.diffusion.diffusion_recipes import (
    ChromaWeight,
    ClassWeights,
    GradientWeight,
    KlWeight,
    Objective,
    RewardRange,
    RewardSettings,
    RewardWeight,
)
from dgkit.training.judge.judge_recipe import LiteStage
from dgkit.training.loop.optimisation import (
    MAX_SEED,
    MAX_STEPS,
    Batch,
    Ema,
    ForwardPrecision,
    LearningRate,
    Optimisation,
    Schedule,
    Steps,
    Warmup,
)

EmptyPrompt = Annotated[float, Field(ge=0, le=1, description="share of captions to empty")]
Zoom2Share = Annotated[float, Field(ge=0, le=1, description="share of samples from zoom-2 scenes")]


class PriorScenes(SceneCounts):
    """Captioned scenes of the prior, with many looks."""

    zoom1: Zoom1 = 4000
    zoom2: Zoom2 = 1000


class SourceScenes(SceneCounts):
    """Labelled scenes of the source; fewer, as it has a single look."""

    zoom1: Zoom1 = 3200
    zoom2: Zoom2 = 900


class CityStage(Optimisation):
    """A stage of the city: in bf16, with a constant learning rate until the last quarter, so it can be extended."""

    precision: ForwardPrecision = "bf16"
    validate_every: int = Field(1000, ge=0, description="steps between validations, plus one at the end; 0 = off")
    cuda_graph: bool = Field(True, description="on a GPU, replay each step as one CUDA graph")


class PixelStage(CityStage):
    """A stage on square crops of images."""

    batch: Batch = 32
    ema: Ema = 0.995
    crop: int = Field(128, ge=32, description="side of the training crops, pixels")


class VaeStage(PixelStage):
    """Autoencoder, with a weighted sum of L1, gradient, chroma and KL losses."""

    steps: Steps = 2500
    gradient: GradientWeight = 0.5
    chroma: ChromaWeight = 0.5
    kl: KlWeight = 1e-4
    whitening: float = Field(
        0.5, ge=0, le=1, description="1 gives all principal axes of the latents one variance, 0 keeps their ratios"
    )


class DiffusionStage(CityStage):
    """UNet on cached latents, with the mean squared error of its v-prediction."""

    steps: Steps = 6000
    batch: Batch = 128
    lr: LearningRate = 1.2e-3
    warmup: Warmup = 200
    zoom2_share: Zoom2Share = 0.35
    empty_prompt: EmptyPrompt = 0.1
    high_noise: float = Field(0.2, ge=0, le=1, description="share of timesteps redrawn from 600 up")


class FinetuneStage(DiffusionStage):
    """The prior UNet on the source look, without captions, as published (DGInStyle, README: empty instance prompt)."""

    steps: Steps = 2500
    batch: Batch = 64
    lr: LearningRate = 8e-4
    warmup: Warmup = 50
    ema: Ema = 0.995
    empty_prompt: EmptyPrompt = 1.0


class ControlNetStage(DiffusionStage):
    """ControlNet on the source UNet, with rare class sampling."""

    steps: Steps = 4000
    lr: LearningRate = 1e-3
    zero_conv_lr: float = Field(4.0, gt=0, description="learning rate of the zero convolutions relative to lr")
    rare_class: float = Field(0.5, ge=0, le=1, description="share of crops drawn by rare class sampling")


class DecoderStage(PixelStage):
    """The decoder only, on latents with noise, such as a sampler leaves."""

    steps: int = Field(1500, ge=0, le=MAX_STEPS, description="optimizer steps; 0 skips this stage")
    lr: LearningRate = 5e-4
    noise: float = Field(0.3, ge=0, description="maximum standard deviation of the noise on the whitened latents")
    gradient: GradientWeight = 0.5
    chroma: ChromaWeight = 0.5
    zoom2_share: Zoom2Share = 0.35


class TeacherStage(LiteStage):
    """The teacher of the reward: it knows labelled scenes of the source alone, in strongly changed colours."""

    steps: Steps = 300


class RewardStage(CityStage):
    """The ControlNet on the prior UNet, on images that the model itself draws, with a reward for readable ones."""

    steps: Steps = 200
    batch: Batch = 4
    lr: LearningRate = 2e-5
    schedule: Schedule = "constant"
    warmup: Warmup = 0
    ema: Ema = 0.0
    cuda_graph: bool = Field(False, description="must be false: a reward cannot be replayed as a CUDA graph")
    pictures: int = Field(160, ge=1, description="images to draw, all styles equally often")
    weight: RewardWeight = 0.5
    t: RewardRange = (20, 260)
    class_weights: ClassWeights = Field({}, description="weights of pixels by the class of their label")
    teacher: TeacherStage = TeacherStage()

    def objective(self) -> Objective:
        """Return the objective of this stage."""
        settings = {name: getattr(self, name) for name in ("weight", "t", "class_weights")}
        return Objective(reward=RewardSettings(teacher=Path("teacher"), **settings))


class CityRecipe(Config):
    """The whole training: scenes, autoencoder, prior, source fine-tuning, ControlNet, decoder, reward, swap."""

    seed: int = Field(0, ge=0, le=MAX_SEED, description="seed of scenes, crops, noise and weights")
    height: int = Field(
        256, ge=32, multiple_of=8, description="height of a zoom-1 scene and side of the model's images, pixels"
    )
    workers: int | None = Field(None, ge=1, description="rendering processes; null: one per core")
    prior: PriorScenes = PriorScenes()
    source: SourceScenes = SourceScenes()
    vae: VaeStage = VaeStage()
    unet: DiffusionStage = DiffusionStage()
    finetune: FinetuneStage = FinetuneStage()
    controlnet: ControlNetStage = ControlNetStage()
    decoder: DecoderStage = DecoderStage()
    reward: RewardStage | None = Field(None, description="tuning of the ControlNet for readable images; null: none")
    guidance_scale: float = Field(1.2, gt=0, description="default guidance scale written to the model folder")
