"""Settings of the optimizer and the training loop, the same for every stage and model."""

from typing import Annotated, Literal

from pydantic import Field

from dgkit.config import Config

Schedule = Annotated[
    Literal["constant", "cosine", "linear", "wsd"],
    Field(description="constant, cosine, linear, or wsd: constant, then a cosine decay at the end"),
]
Optimizer = Literal["adamw", "adamw8bit"]
Precision = Literal["fp32", "bf16", "fp16"]

MAX_STEPS = 99_999_999  # checkpoints are named by eight digits
MAX_SEED = 2**63 - 1000  # torch takes 64 bits; stages add to the seed

# Fields whose default a stage may change: with their limits, which a plain type in a subclass would drop.
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS, description="optimizer steps")]
Batch = Annotated[int, Field(ge=1, description="samples per optimizer step, summed over processes and micro-steps")]
LearningRate = Annotated[float, Field(gt=0, description="peak learning rate")]
Warmup = Annotated[int, Field(ge=0, description="steps of linear warm-up")]
Decay = Annotated[float, Field(ge=0, le=1, description="wsd: share of the steps in which the learning rate decays")]
FinalRate = Annotated[
    float, Field(ge=0, lt=1, description="final learning rate as a share of the peak; unused by constant")
]
Ema = Annotated[float, Field(ge=0, lt=1, description="decay per step of the moving average of the weights; 0 = off")]
ForwardPrecision = Annotated[Precision, Field(description="precision of the forward pass; weights stay fp32")]

# These may change when a run is resumed: none changes what a step computes, except that the decay of the learning rate
# moves with ``steps`` (the constant part of "wsd" does not).
FREE_ON_RESUME = frozenset(
    {"steps", "accumulation", "checkpoint_every", "keep", "validate_every", "workers", "log_every", "cuda_graph"}
)


class Optimisation(Config):
    """One stage of training with AdamW."""

    steps: Steps
    batch: Batch = 16
    accumulation: int = Field(1, ge=1, description="micro-steps per optimizer step; more save memory")
    lr: LearningRate = 1e-3
    schedule: Schedule = "wsd"
    warmup: Warmup = 100
    decay: Decay = 0.25
    final_lr: FinalRate = 0.05
    ema: Ema = 0.998
    weight_decay: float = Field(1e-2, ge=0, description="decoupled weight decay of AdamW")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of AdamW's first moment")
    beta2: float = Field(0.999, ge=0, lt=1, description="decay of AdamW's second moment")
    eps: float = Field(1e-8, gt=0, description="added to the root of AdamW's second moment")
    clip: float = Field(1.0, ge=0, description="maximum gradient norm; 0 = no clipping")
    optimizer: Optimizer = Field("adamw", description="adamw, or adamw8bit (package bitsandbytes), which saves memory")
    precision: ForwardPrecision = "fp32"
    checkpoint_every: int = Field(250, ge=1, description="steps between checkpoints; the last step is always saved")
    keep: int = Field(2, ge=1, description="number of newest checkpoints to keep")
    validate_every: int = Field(0, ge=0, description="steps between validations, plus one at the end; 0 = off")
    workers: int | None = Field(
        None, ge=0, description="sample workers per training process; null: 0 on a CPU, up to 12 with a GPU"
    )
    cuda_graph: bool = Field(
        False, description="replay each step as one CUDA graph; one process, no fp16, no accumulation"
    )
    log_every: int = Field(10, ge=1, description="steps between lines of log.csv")
