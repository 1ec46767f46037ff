"""Training in bf16 on any device; mmengine's own wrapper of reduced precision refuses a CPU."""

import contextlib
from collections.abc import Iterator

import torch

from dgkit.training.segmenter.mm import OPTIM_WRAPPERS, OptimWrapper


@OPTIM_WRAPPERS.register_module(force=True)
class Bf16OptimWrapper(OptimWrapper):
    """Autocast to bf16 with weights in fp32. Its gradients have the range of fp32, so the loss is not scaled."""

    @contextlib.contextmanager
    def optim_context(self, model: torch.nn.Module) -> Iterator[None]:
        """Around the forward pass and the loss."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield
