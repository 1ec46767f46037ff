"""The recipe of the judge: all values of its training, with units."""

from typing import Annotated, Literal

from pydantic import Field

from dgkit.config import Config
from dgkit.training.data.rendered_scenes import SceneCounts
from dgkit.training.loop.optimisation import (
    MAX_SEED,
    Batch,
    Decay,
    Ema,
    FinalRate,
    ForwardPrecision,
    LearningRate,
    Optimisation,
    Steps,
    Warmup,
)

Disturb = Annotated[float, Field(ge=0, le=1, description="probability of each disturbance: colour, blur, noise, JPEG")]
Encoder = Annotated[
    Literal["efficientnet_lite0"] | None,
    Field(description="start from ImageNet weights, extra imagenet; null: a U-Net from random weights"),
]
Recolour = Annotated[
    float | None,
    Field(ge=0, le=1, description="probability of strong changes of exposure, contrast and colour; null: none"),
]


class JudgeStage(Optimisation):
    """A stage of the judge, whose learning rate ends lower than usual."""

    final_lr: FinalRate = 0.01


class SegmenterStage(JudgeStage):
    """The segmenter: weighted cross entropy on augmented crops."""

    steps: Steps = 3600
    batch: Batch = 8
    lr: LearningRate = 3e-3
    warmup: Warmup = 50
    decay: Decay = 0.6
    ema: Ema = 0.995
    precision: ForwardPrecision = "bf16"
    crop: int = Field(192, ge=32, multiple_of=16, description="side of the training crops, pixels")
    zoom: float = Field(1.4, ge=1, description="crops are scaled by a random factor from 1/zoom to zoom")
    rare_class: float = Field(0.5, ge=0, le=1, description="share of crops around a class drawn uniformly")
    balance: float = Field(0.25, ge=0, le=1, description="class weights are the pixel shares to the power -balance")
    disturb: Disturb = 0.35
    encoder: Encoder = None
    recolour: Recolour = None


class LiteStage(SegmenterStage):
    """A segmenter on EfficientNet-Lite0, which learns from fewer images than one from random weights."""

    lr: LearningRate = 2e-3
    warmup: Warmup = 30
    decay: Decay = 1.0
    ema: Ema = 0.98
    crop: int = Field(256, ge=32, multiple_of=32, description="side of the training crops, pixels")
    balance: float = Field(0.35, ge=0, le=1, description="class weights are the pixel shares to the power -balance")
    encoder: Encoder = "efficientnet_lite0"
    recolour: Recolour = 1.0


class ReaderStage(LiteStage):
    """The segmenter of photographs, of which there are a few hundred."""

    steps: Steps = 900
    zoom: float = Field(1.5, ge=1, description="crops are scaled by a random factor from 1/zoom to zoom")
    rare_class: float = Field(0.2, ge=0, le=1, description="share of crops around a class drawn uniformly")


class StyleStage(JudgeStage):
    """The style classifier: cross entropy on whole images."""

    steps: Steps = 500
    lr: LearningRate = 2e-3
    warmup: Warmup = 30
    decay: Decay = 0.5
    ema: Ema = 0.98
    disturb: Disturb = 0.4


class JudgeRecipe(Config):
    """Both networks of the judge, and the scenes for training and testing them."""

    seed: int = Field(
        700, ge=0, le=MAX_SEED, description="seed of scenes, crops and weights; the shipped generator used 0 and 1"
    )
    unseen_seed: int = Field(750, ge=0, le=MAX_SEED, description="seed of the unseen scenes for the scores")
    unseen: int = Field(60, ge=1, description="unseen scenes per role")
    height: int = Field(256, ge=32, multiple_of=16, description="height of a zoom-1 scene, pixels")
    workers: int = Field(2, ge=1, description="rendering processes")
    roles: tuple[str, ...] | None = Field(None, description="roles of the city to train on; null: all")
    prior: SceneCounts = SceneCounts(zoom1=800, zoom2=160)
    source: SceneCounts = SceneCounts()
    other: SceneCounts = Field(SceneCounts(zoom1=120, zoom2=24), description="scenes of every other role")
    segmenter: SegmenterStage = SegmenterStage()
    styles: StyleStage = StyleStage()
    real: str | None = Field(
        None, description="photographs with splits train and val, NAME=DIR, for the segmenter; null: rendered scenes"
    )


class ReaderRecipe(JudgeRecipe):
    """A judge that knows photographs only: the segmenter alone, trained and scored on a data set."""

    segmenter: ReaderStage = ReaderStage()
