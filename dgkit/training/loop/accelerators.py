"""Where and in which precision a training runs, by Hugging Face accelerate."""

import atexit
from datetime import timedelta
from typing import Any

import torch

from dgkit.errors import UsageError
from dgkit.optional import require
from dgkit.training.loop.optimisation import Optimisation

accelerate: Any = require("accelerate", "train")

_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
_LONGEST_VALIDATION = timedelta(hours=6)  # that other processes wait for


def build_accelerator(settings: Optimisation) -> Any:
    """Accelerate's Accelerator; one process may train several stages with different settings in turn."""
    precision = _PRECISION[settings.precision]
    state = accelerate.state.AcceleratorState
    if state._shared_state and state._shared_state.get("_mixed_precision") != precision:
        state._reset_state()
    plugin = accelerate.utils.GradientAccumulationPlugin(
        num_steps=settings.accumulation, adjust_scheduler=False, sync_with_dataloader=False
    )
    waiting = accelerate.utils.InitProcessGroupKwargs(timeout=_LONGEST_VALIDATION)
    accelerator = accelerate.Accelerator(
        # Without this, several processes on a machine with no accelerator would not find one another.
        cpu=not torch.accelerator.is_available(),
        mixed_precision=precision,
        gradient_accumulation_plugin=plugin,
        kwargs_handlers=[waiting],
    )
    if settings.precision == "fp16" and accelerator.device.type == "cpu":
        # accelerate would train in fp32 and say nothing.
        raise UsageError("precision=fp16 needs a GPU; allowed here are fp32, bf16", "use precision=bf16")
    if accelerator.num_processes > 1:
        atexit.register(accelerate.PartialState().destroy_process_group)
    return accelerator
