"""CUDA graphs: a function of tensors is captured once per input shape and replayed with one launch.

The steps follow the PyTorch documentation (notes on CUDA semantics, "CUDA Graphs"): warm-up on a side stream, capture
into a private memory pool, copies into the captured inputs before each replay.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Function = Callable[..., Sequence[Tensor]]
WARM_UPS = 3  # calls before the capture, so that libraries can choose kernels and allocate workspaces
MOST_SHAPES = 8  # a graph keeps its activations; calls with further shapes run without a graph


def record(function: Callable[[], T], pool: Any = None) -> tuple["torch.cuda.CUDAGraph", T]:
    """Capture ``function`` on the current device; return the graph and the result, whose tensors a replay fills.

    ``pool`` is a memory pool shared by graphs that are never replayed at the same time.
    """
    stream = _stream(torch.cuda.current_device())
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=stream):
        return graph, function()


@functools.cache
def _stream(device: int) -> "torch.cuda.Stream":
    """Return the stream that all graphs of a device are captured on.

    cuBLAS keeps a workspace, 33 MiB on an H100, for every stream that it was used on.
    """
    return torch.cuda.Stream(device)


@dataclass(frozen=True)
class _Capture:
    graph: "torch.cuda.CUDAGraph"
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class CudaGraph:
    """``CudaGraph(function)(*tensors)`` equals ``function(*tensors)``. ``function`` must not read values on the CPU.

    Inputs and outputs are on the current CUDA device; outputs belong to the caller. All shapes share one memory pool,
    because replays run one after the other on a stream.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        self._captures: dict[tuple[object, ...], _Capture] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for ``tensors``; the first call with a shape captures its graph."""
        key = tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors)
        if key not in self._captures:
            if len(self._captures) == MOST_SHAPES:
                return tuple(self._function(*tensors))
            self._captures[key] = self._capture(tensors)
        captured = self._captures[key]
        for target, source in zip(captured.inputs, tensors, strict=True):
            target.copy_(source)
        captured.graph.replay()
        return tuple(output.clone() for output in captured.outputs)

    def clear(self) -> None:
        """Drop all graphs with their memory."""
        torch.cuda.synchronize()
        self._captures.clear()

    def _capture(self, tensors: Sequence[Tensor]) -> _Capture:
        inputs = tuple(tensor.clone(memory_format=torch.contiguous_format) for tensor in tensors)
        graph, outputs = record(lambda: tuple(self._function(*inputs)), self._pool)
        return _Capture(graph, inputs, outputs)
