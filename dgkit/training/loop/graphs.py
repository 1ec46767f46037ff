"""The forward and backward pass of a training step as one CUDA graph.

A network of a few million weights leaves a large GPU idle: its step is a thousand kernels of some microseconds each,
and the time goes into launching them one by one from Python. A graph launches all of them at once. The kernels are the
same.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dgkit.engines.cuda_graph import record

Batch = dict[str, Tensor]


class GraphedGradients:
    """``gradients(batch)`` recorded at its first call and replayed since.

    ``gradients`` computes the loss of a batch of CUDA tensors, scalar, and leaves its gradients in ``parameters``; it
    may neither wait for the device nor depend on values on the host. All batches have the shapes of the first one.
    """

    def __init__(self, gradients: Callable[[Batch], Tensor], parameters: Sequence[nn.Parameter]) -> None:
        self.gradients, self.parameters = gradients, parameters
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Batch) -> Tensor:
        """The loss; the gradients of ``batch`` alone are in the parameters, whatever was there before."""
        if self.graph is None:
            self.graph = self._capture(batch)
        for name, tensor in batch.items():
            self.inputs[name].copy_(tensor, non_blocking=True)
        self.graph.replay()
        # An optimizer that drops its gradients drops the attribute; the memory is the graph's.
        for parameter, gradient in zip(self.parameters, self.outputs, strict=True):
            parameter.grad = gradient
        return self.loss.clone()

    def _capture(self, batch: Batch) -> torch.cuda.CUDAGraph:
        self.inputs = {name: tensor.clone() for name, tensor in batch.items()}
        graph, self.loss = record(self._fresh_gradients)
        self.outputs = [parameter.grad for parameter in self.parameters]
        return graph

    def _fresh_gradients(self) -> Tensor:
        """The loss; the gradients are new tensors, in a recording of the memory of the graph."""
        for parameter in self.parameters:
            parameter.grad = None
        return self.gradients(self.inputs)
