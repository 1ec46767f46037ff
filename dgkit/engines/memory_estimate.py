"""Device memory that networks need, estimated from their shapes: without weights, a GPU or a computation.

A network runs on tensors that have a shape but no values, and the bytes of all that are alive at once are counted. That
is what PyTorch allocates when it runs the network operator by operator. docs/guides/tensorrt.md compares the estimate
with an H100; other engines fuse operators and usually need less.
"""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dgkit.engines.runner import DTYPES, QUANTISED, Network
from dgkit.errors import UsageError

SURPLUS = 1.2  # activations on an H100 exceed the sum of tensors by 4 to 17 %: convolutions have workspaces
WORKSPACE = 64 << 20  # bytes that matrix libraries take on a GPU, whatever the network; measured on an H100
CONTEXT = 500 << 20  # bytes of a CUDA context with its kernels


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes of the weights of a network, and of everything else that is alive at the peak of a call."""

    network: str
    dtype: str
    batch: int
    weights: int
    activations: int

    @property
    def total(self) -> int:
        """Bytes while the network runs alone."""
        return self.weights + self.activations + WORKSPACE


def estimate(network: Network, dtype: str, batch: int, **sizes: int) -> MemoryNeed:
    """Return the memory of a call with ``batch`` samples in ``dtype``; ``sizes`` by symbol override the network's own.

    In 8 bits weights take a byte, and activations count as in fp16: most layers between the products keep it. Raises
    UsageError for an unknown dtype or a batch below 1.
    """
    if batch < 1:
        raise UsageError(f"batch {batch}; allowed: 1 or more", "use for example --batch 8")
    if dtype not in (*DTYPES, *QUANTISED):
        raise UsageError(f"unknown dtype {dtype!r}; known: {', '.join((*DTYPES, *QUANTISED))}", "use --dtype fp16")
    kind = DTYPES.get(dtype, torch.float16)
    module = network.outline().to(kind).eval().requires_grad_(False)
    count = sum(weight.numel() for weight in module.parameters())
    known = {**network.sizes, **sizes, "batch": batch}
    peak = _peak(module, [([known[s] for s in spec.shape], spec.dtype) for spec in network.spec.inputs], kind)
    weights = count * (1 if dtype in QUANTISED else kind.itemsize)
    return MemoryNeed(network.spec.name, dtype, batch, weights, int(SURPLUS * peak))


def together(needs: Iterable[MemoryNeed]) -> int:
    """Return the bytes of a GPU on which all networks are loaded and one of them runs at a time."""
    found = list(needs)
    return sum(need.weights for need in found) + max(need.activations for need in found) + WORKSPACE + CONTEXT


def _peak(module: nn.Module, inputs: list[tuple[list[int], str]], dtype: torch.dtype) -> int:
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        module.to_empty(device="cpu")  # tensors without values: nothing is allocated
        with _LiveBytes(module) as live:
            module(*(torch.zeros(shape, dtype=dtype if kind == "float" else torch.int64) for shape, kind in inputs))
    return live.peak


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operators create, while these are alive; ``peak`` is the maximum."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves this initialiser untyped
        self.peak = self._live = 0
        self._known = weakref.WeakSet(tensor.untyped_storage() for tensor in (*module.parameters(), *module.buffers()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            if isinstance(value, Tensor) and value.untyped_storage() not in self._known:
                self._add(value.untyped_storage())
        return found

    def _add(self, storage: torch.UntypedStorage) -> None:
        self._known.add(storage)
        self._live += storage.nbytes()
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._release, storage.nbytes())

    def _release(self, size: int) -> None:
        self._live -= size
