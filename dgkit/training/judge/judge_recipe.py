"""The recipe of the judge: every number of its training, with units, and nowhere else."""

from pydantic import Field

from dgkit.config import Config
from dgkit.training.loop.optimisation import Optimisation, Precision


class JudgeScenes(Config):
    """Scenes of one role: ``zoom1`` of ``height`` x 2 ``height`` pixels, ``zoom2`` of twice that size."""

    zoom1: int = Field(200, ge=1, description="scenes at zoom 1")
    zoom2: int = Field(40, ge=0, description="scenes at zoom 2")


class SegmenterStage(Optimisation):
    """The segmenter: weighted cross entropy on augmented crops."""

    steps: int = 3600
    batch: int = 8
    lr: float = 3e-3
    warmup: int = 50
    decay: float = 0.6
    final_lr: float = 0.01
    ema: float = 0.995
    precision: Precision = "bf16"
    crop: int = Field(192, ge=32, multiple_of=16, description="side of the training crops, pixels")
    zoom: float = Field(1.4, ge=1, description="a crop shows the scene at 1/zoom to zoom times its size")
    rare_class: float = Field(0.5, ge=0, le=1, description="share of crops centred on a class drawn evenly")
    balance: float = Field(0.25, ge=0, le=1, description="class weights are the pixel shares to the power -balance")
    disturb: float = Field(0.35, ge=0, le=1, description="odds of each disturbance: colour, blur, noise, JPEG")


class StyleStage(Optimisation):
    """The classifier of weather: cross entropy on whole pictures."""

    steps: int = 500
    batch: int = 16
    lr: float = 2e-3
    warmup: int = 30
    decay: float = 0.5
    final_lr: float = 0.01
    ema: float = 0.98
    precision: Precision = "fp32"
    disturb: float = Field(0.4, ge=0, le=1, description="odds of each disturbance: colour, blur, noise, JPEG")


class JudgeRecipe(Config):
    """Both networks of the judge and the scenes they are trained on and tried with."""

    seed: int = Field(700, ge=0, description="scenes, crops and weights; the shipped generator was trained on 0 and 1")
    unseen_seed: int = Field(750, ge=0, description="seed of the scenes that the figures are measured on")
    unseen: int = Field(60, ge=1, description="unseen scenes per role")
    height: int = Field(256, ge=32, multiple_of=16, description="height of a zoom-1 scene, pixels")
    workers: int = Field(2, ge=1, description="processes that render")
    roles: tuple[str, ...] | None = Field(None, description="roles of the city to learn from; null: all")
    prior: JudgeScenes = JudgeScenes(zoom1=800, zoom2=160)
    source: JudgeScenes = JudgeScenes()
    other: JudgeScenes = Field(JudgeScenes(zoom1=120, zoom2=24), description="each role that is none of the above")
    segmenter: SegmenterStage = SegmenterStage()
    styles: StyleStage = StyleStage()
