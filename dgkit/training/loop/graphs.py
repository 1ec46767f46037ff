"""The forward and backward pass of a training step as one CUDA graph.

The step of a small network is a thousand kernels of a few microseconds each, so a large GPU idles while Python launches
them one by one. A graph launches the same kernels all at once.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dgkit.engines.cuda_graph import record
from dgkit.training.loop.task import Tensors


class GraphedGradients:
    """``gradients(batch)``, recorded at the first call and replayed from then on.

    ``gradients`` returns the scalar loss of a batch of CUDA tensors and leaves its gradients in ``parameters``. It must
    not wait for the device or depend on values on the host. All batches have the shapes of the first one.
    """

    def __init__(self, gradients: Callable[[Tensors], Tensor], parameters: Sequence[nn.Parameter]) -> None:
        self.gradients, self.parameters = gradients, parameters
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Tensors) -> Tensor:
        """Return the loss; the gradients of ``batch`` replace those in the parameters."""
        if self.graph is None:
            self.graph = self._capture(batch)
        for name, tensor in batch.items():
            self.inputs[name].copy_(tensor, non_blocking=True)
        self.graph.replay()
        # zero_grad() drops the attribute; the memory of the gradients belongs to the graph.
        for parameter, gradient in zip(self.parameters, self.outputs, strict=True):
            parameter.grad = gradient
        return self.loss.clone()

    def _capture(self, batch: Tensors) -> torch.cuda.CUDAGraph:
        self.inputs = {name: tensor.clone() for name, tensor in batch.items()}
        graph, self.loss = record(self._fresh_gradients)
        self.outputs = [parameter.grad for parameter in self.parameters]
        return graph

    def _fresh_gradients(self) -> Tensor:
        """Return the loss; the gradients are new tensors, allocated in the graph's memory while it is recorded."""
        for parameter in self.parameters:
            parameter.grad = None
        return self.gradients(self.inputs)
