"""Eager PyTorch, on CPU or CUDA, in fp32, bf16 or fp16."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from dgkit.engines.cuda_graph import CudaGraph
from dgkit.engines.modules import cast
from dgkit.engines.runner import Runner

# What runs at every step; for the networks that run once an image, memory kept for a graph would be wasted.
GRAPHED = ("denoiser",)


class TorchRunner(Runner):
    """Runs the module itself, channels-last where that is faster. Outputs are fresh tensors in the runner's dtype.

    Of the options, ``threads`` counts on a CPU, and ``cuda_graph`` on a GPU: there the denoiser is captured into a CUDA
    graph for each shape it is called with.
    """

    def _open(self) -> None:
        module = cast(self.network.load(), self.device, self.dtype)
        self._call: Callable[..., Sequence[Tensor]] | None = graphed(self, lambda *tensors: as_tuple(module(*tensors)))

    def _run(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        assert self._call is not None
        arguments = [place(self, tensor) for tensor in tensors.values()]
        with torch.inference_mode(), on_device(self):
            results = self._call(*arguments)
        return {spec.name: value for spec, value in zip(self.spec.outputs, results, strict=True)}

    def _close(self) -> None:
        self._call = None


def place(runner: Runner, tensor: Tensor) -> Tensor:
    """``tensor`` on the runner's device, in its dtype where it is floating."""
    return tensor.to(runner.device, runner.dtype if tensor.is_floating_point() else None)


def as_tuple(result: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What a module or a compiled package returned, one output or several."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


def graphed(runner: Runner, function: Callable[..., Sequence[Tensor]]) -> Callable[..., Sequence[Tensor]]:
    """``function``, replayed as a CUDA graph where the runner's device, options and network say so."""
    wanted = runner.device.type == "cuda" and runner.options.cuda_graph and runner.spec.name in GRAPHED
    return CudaGraph(function) if wanted else function


@contextlib.contextmanager
def on_device(runner: Runner) -> Iterator[None]:
    """The runner's GPU as the current one, or on a CPU its number of threads."""
    if runner.device.type == "cuda":
        with torch.cuda.device(runner.device):
            yield
        return
    before = torch.get_num_threads()
    wanted = runner.options.threads or before
    try:
        if wanted != before:
            torch.set_num_threads(wanted)
        yield
    finally:
        if wanted != before:
            torch.set_num_threads(before)
