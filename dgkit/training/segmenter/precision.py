"""Training in bf16 on any device; mmengine's own AMP wrapper does not support CPUs."""

import contextlib
from collections.abc import Iterator

import torch

from dgkit.training.segmenter.mm import OPTIM_WRAPPERS, OptimWrapper


@OPTIM_WRAPPERS.register_module(force=True)
class Bf16OptimWrapper(OptimWrapper):
    """Autocast to bf16 with fp32 weights; bf16 gradients have the range of fp32, so the loss is not scaled."""

    @contextlib.contextmanager
    def optim_context(self, model: torch.nn.Module) -> Iterator[None]:
        """Return the context of the forward pass and the loss."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield
