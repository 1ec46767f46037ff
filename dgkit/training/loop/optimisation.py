"""Settings of one optimisation, the same for every stage and every model; see trainer.py for what they do."""

from typing import Literal

from pydantic import Field

from dgkit.config import Config

Schedule = Literal["constant", "cosine", "linear", "wsd"]
Optimizer = Literal["adamw", "adamw8bit"]
Precision = Literal["fp32", "bf16", "fp16"]

# A run may be resumed with other values of these: none changes what a step computes, save that the decay of the
# learning rate moves with ``steps`` (the constant part of "wsd" does not).
FREE_ON_RESUME = frozenset(
    {"steps", "accumulation", "checkpoint_every", "keep", "validate_every", "workers", "log_every", "cuda_graph"}
)


class Optimisation(Config):
    """One stage of AdamW: warm-up, a schedule of the learning rate, a moving average of the weights, checkpoints."""

    steps: int = Field(ge=1, description="optimizer steps")
    batch: int = Field(16, ge=1, description="samples per optimizer step, over all processes and micro-steps together")
    accumulation: int = Field(1, ge=1, description="micro-steps that one optimizer step is split into, to save memory")
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    schedule: Schedule = Field(
        "wsd", description="constant, cosine, linear, or wsd: constant, then a cosine over the last decay share"
    )
    warmup: int = Field(100, ge=0, description="steps of linear warm-up")
    decay: float = Field(0.25, ge=0, le=1, description="wsd: share of the steps, at the end, over which the rate falls")
    final_lr: float = Field(0.05, ge=0, lt=1, description="last learning rate as a share of the peak; not for constant")
    ema: float = Field(0.998, ge=0, lt=1, description="decay of the moving average of the weights, per step; 0 = off")
    weight_decay: float = Field(1e-2, ge=0, description="decoupled weight decay of AdamW")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of AdamW's first moment")
    beta2: float = Field(0.999, ge=0, lt=1, description="decay of AdamW's second moment")
    eps: float = Field(1e-8, gt=0, description="added to the root of AdamW's second moment")
    clip: float = Field(1.0, ge=0, description="largest gradient norm; 0 = no limit")
    optimizer: Optimizer = Field("adamw", description="adamw, or adamw8bit (package bitsandbytes) to save memory")
    precision: Precision = Field("fp32", description="of the forward pass; the weights stay fp32")
    checkpoint_every: int = Field(250, ge=1, description="steps between checkpoints; the last step always has one")
    keep: int = Field(2, ge=1, description="checkpoints kept, the newest ones")
    validate_every: int = Field(0, ge=0, description="steps between validations, and one at the end; 0 = off")
    workers: int | None = Field(
        None, ge=0, description="processes that prepare samples, per training process; null: none on a CPU, else 12"
    )
    cuda_graph: bool = Field(
        False, description="replay a step's kernels as one CUDA graph, with one process, without fp16 or accumulation"
    )
    log_every: int = Field(10, ge=1, description="steps between lines of log.csv")
