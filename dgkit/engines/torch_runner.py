"""Eager PyTorch, on CPU or CUDA, in fp32, bf16 or fp16."""

import torch
from torch import Tensor, nn

from dgkit.engines.base import Runner
from dgkit.engines.networks import cast


class TorchRunner(Runner):
    """Runs the module itself. Outputs are fresh tensors in the runner's dtype."""

    def _open(self) -> None:
        self._module: nn.Module | None = cast(self.network.load(), self.device, self.dtype)

    def _run(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        assert self._module is not None
        arguments = [self._place(tensor) for tensor in tensors.values()]
        with torch.inference_mode():
            result = self._module(*arguments)
        results = result if isinstance(result, tuple) else (result,)
        return {spec.name: value for spec, value in zip(self.spec.outputs, results, strict=True)}

    def _close(self) -> None:
        self._module = None

    def _place(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)
