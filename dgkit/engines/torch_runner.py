"""Eager PyTorch on CPU or CUDA, in fp32, bf16 or fp16."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from dgkit.engines.cuda_graph import CudaGraph
from dgkit.engines.modules import cast
from dgkit.engines.runner import Runner

# Networks that run at every step. For those that run once per image a graph would waste memory.
GRAPHED = ("denoiser",)
TensorFunction = Callable[..., Sequence[Tensor]]


class TorchRunner(Runner):
    """Runs the module itself, channels-last where that is faster. Outputs are new tensors in the runner's dtype.

    Options used: ``threads`` on a CPU; ``cuda_graph`` on a GPU, where the denoiser is captured into one CUDA graph for
    each input shape.
    """

    def _setup(self) -> None:
        self._call: TensorFunction | None = None

    def _open(self) -> None:
        module = cast(self.network.load(), self.device, self.dtype)
        self._call = graphed(self, lambda *tensors: as_tuple(module(*tensors)))

    def _run(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        assert self._call is not None
        arguments = self.place(tensors).values()
        with torch.inference_mode(), on_device(self):
            results = self._call(*arguments)
        return {spec.name: value for spec, value in zip(self.spec.outputs, results, strict=True)}

    def free_buffers(self) -> None:
        """Drop the captured graphs, which keep their activations; later calls capture them again."""
        if isinstance(self._call, CudaGraph):
            self._call.clear()

    def _close(self) -> None:
        self._call = None


def as_tuple(result: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the outputs of a module or compiled package, one or several, as a tuple."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


def graphed(runner: Runner, function: TensorFunction) -> TensorFunction:
    """Return ``function``, replayed as a CUDA graph if the runner's device, options and network call for one."""
    wanted = runner.device.type == "cuda" and runner.options.cuda_graph and runner.spec.name in GRAPHED
    return CudaGraph(function) if wanted else function


@contextlib.contextmanager
def on_device(runner: Runner) -> Iterator[None]:
    """Make the runner's GPU the current device, or on a CPU set its number of threads."""
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
