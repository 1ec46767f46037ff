"""What every backend shares: checks, the context manager, timing, and the rule on buffers.

A backend overrides ``_open``, ``_run`` and ``_close``, and ``prepare`` where it runs files of the engine store. It
touches the device inside ``with`` alone. The tensors that a call returns are the caller's: a backend that reuses
buffers copies them out first.
"""

import importlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from dgkit.config import Config
from dgkit.engines.spec import FIXED_SYMBOLS, NetworkSpec, bind
from dgkit.engines.store import Engine, Policy, check_policy
from dgkit.errors import EngineError, UsageError
from dgkit.progress import Notify

RUNNERS = {
    "torch": "dgkit.engines.torch_runner.TorchRunner",
    "ort": "dgkit.engines.ort.OrtRunner",
    "compile": "dgkit.engines.compile_runner.CompileRunner",
    "openvino": "dgkit.engines.openvino_runner.OpenVinoRunner",
    "trt": "dgkit.engines.trt.TrtRunner",
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
QUANTISED = ("int8",)  # number formats of weights and of some products, which no tensor outside of an engine has


class BuildOptions(Config):
    """How engines are built and run. A backend ignores what it has no use for; its docstring says what it uses."""

    batch: tuple[int, int, int] = (1, 8, 64)
    """Samples of one call: the fewest, the number that the engine is tuned for, the most."""
    optimisation_level: int | None = Field(None, ge=0, le=5)
    """Effort of the builder, 0 (quick build) to 5 (quick engine); none: the backend's own."""
    workspace_gib: float | None = Field(None, gt=0)
    """GiB of device memory that the builder may use as scratch; none: all there is."""
    strip_weights: bool = False
    """Build without weights, which are put in from the exported graph when the engine is opened."""
    refit: bool = False
    """Build so that weights can be replaced later."""
    cuda_graph: bool = True
    """Capture one CUDA graph for each batch size, where the device is a GPU."""
    threads: int | None = Field(None, ge=1)
    """CPU threads; none: those that torch uses."""

    @field_validator("batch")
    @classmethod
    def _ordered(cls, batch: tuple[int, int, int]) -> tuple[int, int, int]:
        least, usual, most = batch
        if not 1 <= least <= usual <= most:
            raise ValueError(f"batch {least},{usual},{most}; expected 1 <= min <= opt <= max")
        return batch


Call = Mapping[str, np.ndarray]
"""Tensors of one sample by the names of a spec, batch axis included: float32 and int64."""


@dataclass(frozen=True)
class Calibration:
    """Calls that a network gets in use: what it is quantised by, and what tells how far off that made it.

    ``draw`` returns the inputs of the calls that calibrate, and inputs and fp32 outputs of others that do not.
    ``facts`` is all that they depend on beside the network, for the key of an engine.
    """

    draw: Callable[[], tuple[Sequence[Call], Sequence[Call]]]
    facts: Callable[[], Mapping[str, int | str]]


@dataclass(frozen=True)
class Network:
    """One network of a model, ready for any backend.

    ``load`` returns the module with its weights and is called by backends that need them. ``digest`` (hex) identifies
    weights and configuration. ``sizes`` gives an example size for every symbol of the spec; those of
    :data:`~dgkit.engines.spec.FIXED_SYMBOLS` are the only ones the network takes. ``model`` is the model as a command
    takes it, quoted for a shell, for messages only. A network without ``calibration`` cannot be quantised.
    """

    spec: NetworkSpec
    load: Callable[[], nn.Module]
    digest: Callable[[], str]
    sizes: Mapping[str, int]
    model: str = ""
    calibration: Calibration | None = None


@dataclass
class Timing:
    """Work done by a runner since it was opened: calls, samples (sum of batch sizes) and seconds inside the backend."""

    calls: int = 0
    samples: int = 0
    seconds: float = 0.0


class Runner(ABC):
    """Base of all backends: ``with runner: outputs = runner(name=tensor, ...)``.

    Set ``synchronize`` to wait for the device at each end of a call, so that ``timing.seconds`` is device time.
    ``rebuild`` and ``notify`` are for backends that run files of the engine store, see
    :meth:`dgkit.engines.store.EngineStore.obtain`; ``options`` says how those files are built and run.
    """

    dtypes: ClassVar[tuple[str, ...]] = tuple(DTYPES)
    """Number formats that the backend knows; which of them it has here depends on the device."""

    def __init__(
        self,
        network: Network,
        device: str = "cpu",
        dtype: str = "fp32",
        *,
        rebuild: Policy = "auto",
        notify: Notify | None = None,
        options: BuildOptions | None = None,
    ) -> None:
        if dtype in QUANTISED:
            self._check_quantised(network, dtype)
        self.network, self.spec = network, network.spec
        self.rebuild, self.notify = check_policy(rebuild), notify
        self.options = options or BuildOptions()
        self.device, self.dtype_name = find_device(device), dtype
        self.dtype = torch.float32 if dtype in QUANTISED else find_dtype(dtype)
        self.synchronize = False
        self.timing = Timing()
        self._is_open = False

    def prepare(self) -> list[Engine]:
        """The files of the engine store that this runner runs, built where they have to be, without opening a device.

        Empty for a backend that runs the module itself. Raises what :meth:`EngineStore.obtain` and the build raise.
        """
        return []

    def held_out(self) -> tuple[dict[str, Tensor], dict[str, Tensor]] | None:
        """Inputs and fp32 outputs, a sample a row, of calls that the network gets in use: what it is compared on.

        None where random inputs do, as they do for all that is not quantised. Raises what :meth:`prepare` does.
        """
        return None

    def __enter__(self) -> Self:
        if self._is_open:
            raise EngineError(f"{self}: already open")
        self._open()
        self._is_open, self.timing = True, Timing()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_open:
            self._is_open = False
            self._close()

    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        """Run once. Inputs by the names of the spec, on any device; outputs on the runner's device, yours to keep.

        EngineError: the runner is not open, or a name, rank, dtype or size is wrong.
        """
        if not self._is_open:
            raise EngineError(f"{self}: not open", "use it inside `with runner:`")
        sizes = {k: v for k, v in self.network.sizes.items() if k in FIXED_SYMBOLS}
        self._check_inputs(tensors, sizes)
        started = self._clock()
        outputs = self._run({spec.name: tensors[spec.name] for spec in self.spec.inputs})
        self.timing.seconds += self._clock() - started
        self.timing.calls += 1
        self.timing.samples += sizes["batch"]
        for spec in self.spec.outputs:
            bind(spec, tuple(outputs[spec.name].shape), sizes, str(self))
        return outputs

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.spec.name}, {self.device}, {self.dtype_name})"

    def _check_quantised(self, network: Network, dtype: str) -> None:
        if dtype not in self.dtypes:
            names = {cls.__name__ for cls in type(self).__mro__}
            engine = next(name for name, path in RUNNERS.items() if path.rpartition(".")[2] in names)
            raise UsageError(
                f"engine {engine!r} does not compute in {dtype}; it takes {', '.join(self.dtypes)}, and engine "
                f"'openvino' takes {dtype}",
                "use --engine openvino, or another --dtype",
            )
        if network.calibration is None:
            raise UsageError(f"network {network.spec.name} is not offered in {dtype}; allowed is the denoiser",
                             "use bf16 or fp32 for this network")  # fmt: skip

    def _check_inputs(self, tensors: dict[str, Tensor], sizes: dict[str, int]) -> None:
        names = [spec.name for spec in self.spec.inputs]
        if set(names) != set(tensors):
            raise EngineError(f"{self}: got inputs {sorted(tensors)}; expected {sorted(names)}")
        for spec in self.spec.inputs:
            tensor = tensors[spec.name]
            fits = tensor.is_floating_point() if spec.dtype == "float" else tensor.dtype == torch.int64
            if not fits:
                raise EngineError(f"{self}: {spec.name} is {tensor.dtype}; expected {spec.dtype}")
            bind(spec, tuple(tensor.shape), sizes, str(self))

    def _clock(self) -> float:
        if self.synchronize and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _run(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]: ...

    @abstractmethod
    def _close(self) -> None: ...


def known_dtype(name: str) -> str:
    """``name``, which is a number format of some engine; UsageError lists them."""
    if name not in (*DTYPES, *QUANTISED):
        raise UsageError(f"unknown dtype {name!r}; known: {', '.join((*DTYPES, *QUANTISED))}")
    return name


def find_dtype(name: str) -> torch.dtype:
    """The torch dtype of ``fp32``, ``bf16`` or ``fp16``; UsageError lists them."""
    if name not in DTYPES:
        raise UsageError(f"unknown dtype {name!r}; known: {', '.join(DTYPES)}")
    return DTYPES[name]


def find_device(name: str) -> torch.device:
    """The torch device called ``name`` (``cpu``, ``cuda``, ``cuda:1``); UsageError where it does not exist here."""
    kind, _, number = name.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if kind not in ("cpu", "cuda") or (number and (not number.isdigit() or int(number) >= max(count, 1))):
        known = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise UsageError(f"unknown device {name!r}; here: {', '.join(known)}")
    if count == 0:
        raise UsageError("device 'cuda' asked for, but torch sees no CUDA device", "use --device cpu")
    return torch.device(name)


def runner_class(engine: str) -> Any:
    """The backend called ``engine``, imported on first use; UsageError lists the known ones."""
    if engine not in RUNNERS:
        raise UsageError(f"unknown engine {engine!r}; known: {', '.join(RUNNERS)}")
    module, _, name = RUNNERS[engine].rpartition(".")
    return getattr(importlib.import_module(module), name)
