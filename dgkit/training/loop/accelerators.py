"""Device, processes and precision of a training, through Hugging Face accelerate."""

import atexit
from datetime import timedelta
from typing import Any

import torch

from dgkit.errors import UsageError
from dgkit.optional import require
from dgkit.training.loop.optimisation import Optimisation

accelerate: Any = require("accelerate", "train")

_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
_LONGEST_VALIDATION = timedelta(hours=6)  # the other processes wait while the main one validates


def build_accelerator(settings: Optimisation) -> Any:
    """Return an ``Accelerator`` for ``settings``; one process may train stages of different precision in turn.

    Raises UsageError for fp16 without a GPU.
    """
    precision = _PRECISION[settings.precision]
    state = accelerate.state.AcceleratorState
    if state._shared_state and state._shared_state.get("_mixed_precision") != precision:
        state._reset_state()
    plugin = accelerate.utils.GradientAccumulationPlugin(
        num_steps=settings.accumulation, adjust_scheduler=False, sync_with_dataloader=False
    )
    timeout = accelerate.utils.InitProcessGroupKwargs(timeout=_LONGEST_VALIDATION)
    accelerator = accelerate.Accelerator(
        # Without this, several processes on a machine without an accelerator would not form a group.
        cpu=not torch.accelerator.is_available(),
        mixed_precision=precision,
        gradient_accumulation_plugin=plugin,
        kwargs_handlers=[timeout],
    )
    if settings.precision == "fp16" and accelerator.device.type == "cpu":
        # accelerate would silently train in fp32.
        raise UsageError("precision=fp16 needs a GPU; without one, fp32 and bf16 are allowed", "use precision=bf16")
    if accelerator.num_processes > 1:
        atexit.register(accelerate.PartialState().destroy_process_group)
    return accelerator
