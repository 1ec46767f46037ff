"""The base class of all backends: input checks, the context manager, timing and buffer ownership.

A backend overrides ``_open``, ``_run`` and ``_close``, plus ``prepare`` if it runs files from the engine store. It
touches the device only inside ``with``. Returned tensors belong to the caller: a backend that reuses buffers copies
them first.
"""

import importlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from dgkit.config import Config
from dgkit.engines.spec import FIXED_SYMBOLS, NetworkSpec, bind
from dgkit.engines.store import Engine, Policy, check_policy, rebuild_command
from dgkit.errors import EngineError, UsageError, did_you_mean
from dgkit.optional import first_line
from dgkit.progress import Notify

RUNNERS = {
    "torch": "dgkit.engines.torch_runner.TorchRunner",
    "ort": "dgkit.engines.ort.OrtRunner",
    "compile": "dgkit.engines.compile_runner.CompileRunner",
    "openvino": "dgkit.engines.openvino_runner.OpenVinoRunner",
    "trt": "dgkit.engines.trt.TrtRunner",
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
QUANTISED = ("int8", "fp8")  # used inside an engine only; its inputs and outputs are wider
_QUANTISING = {"int8": "engines 'openvino' and, on a GPU, 'trt' do", "fp8": "engine 'trt' does"}

DOCTOR = "dgkit doctor lists those that work on this machine"
SMALL_IMAGE_HINT = "images smaller than the model's own size need --engine torch"


class BuildOptions(Config):
    """Options for building and running engines. The docstring of each backend lists the ones that it uses."""

    batch: tuple[int, int, int] = (1, 8, 64)
    """Samples per call: minimum, the number that the engine is tuned for, maximum."""
    optimisation_level: int | None = Field(None, ge=0, le=5)
    """Builder effort, 0 (fast build) to 5 (fast engine); none: the backend's default."""
    workspace_gib: float | None = Field(None, gt=0)
    """GiB of device memory that the builder may use as workspace; none: no limit."""
    strip_weights: bool = False
    """Build without weights; they are loaded from the exported graph when the engine is opened."""
    refit: bool = False
    """Build an engine whose weights can be replaced, and replace them for other weights of the same architecture."""
    weight_streaming: bool = False
    """TensorRT: keep in main memory the weights that do not fit on the GPU, and copy them there when needed."""
    weight_budget_gib: float | None = Field(None, ge=0)
    """GiB of weights that stay on the GPU with weight_streaming; none: as many as fit."""
    hardware_compatible: bool = False
    """TensorRT: build for all GPUs of compute capability 8.0 or newer, at some cost in speed."""
    version_compatible: bool = False
    """TensorRT: build an engine that later versions of TensorRT can run."""
    targets: tuple[Annotated[str, Field(pattern=r"^sm\d{2,3}$")], ...] = ()
    """TensorRT-RTX: compute capabilities to build for, such as sm89; none: its own choice."""
    cuda_graph: bool = True
    """Capture a CUDA graph for each batch size; GPU only."""
    threads: int | None = Field(None, ge=1)
    """CPU threads; none: the number that torch uses."""
    providers: tuple[Literal["tensorrt", "rtx", "cuda", "cpu"], ...] = ()
    """Execution providers of ONNX Runtime, in order of preference; none: the device's own."""

    @field_validator("batch")
    @classmethod
    def _ordered(cls, batch: tuple[int, int, int]) -> tuple[int, int, int]:
        least, usual, most = batch
        if not 1 <= least <= usual <= most:
            raise ValueError(f"batch {least},{usual},{most}; expected 1 <= min <= opt <= max")
        return batch


Call = Mapping[str, np.ndarray]
"""Tensors of one sample by their names in the spec, batch axis included; float32 or int64."""


@dataclass(frozen=True)
class Calibration:
    """Recorded calls of a network, for quantising it and for measuring the error of the result.

    ``draw`` returns the inputs of the calibration calls, and the inputs and fp32 outputs of held-out calls. ``facts``
    returns everything that they depend on in addition to the network; it becomes part of the engine key.
    """

    draw: Callable[[], tuple[Sequence[Call], Sequence[Call]]]
    facts: Callable[[], Mapping[str, int | str]]


@dataclass(frozen=True)
class Network:
    """One network of a model, ready for any backend.

    ``load`` returns the module with its weights; only backends that need weights call it. ``digest`` (hex) identifies
    weights and configuration. ``sizes`` gives an example size for every symbol of the spec; for the symbols in
    :data:`~dgkit.engines.spec.FIXED_SYMBOLS` it is the only valid size. ``model`` is the model as command-line
    arguments, quoted for a shell, for messages only. A network without ``calibration`` cannot be quantised. ``fp16`` is
    False for a network whose activations exceed the range of fp16. ``outline`` returns the module on the meta device,
    to estimate its memory.
    """

    spec: NetworkSpec
    load: Callable[[], nn.Module]
    digest: Callable[[], str]
    sizes: Mapping[str, int]
    model: str = ""
    calibration: Calibration | None = None
    fp16: bool = True
    outline: Callable[[], nn.Module] = nn.Module

    def check_range(self, dtype: str) -> None:
        """Raise UsageError if ``dtype`` is fp16 and the network exceeds its range."""
        if dtype == "fp16" and not self.fp16:
            raise UsageError(
                f"the {self.spec.name} of this model does not support fp16, whose range its activations exceed",
                "use bf16 or fp32 for this network, or a VAE made for fp16, with force_upcast false in its config.json",
            )


@dataclass
class Timing:
    """Work of a runner since it was opened: calls, samples (sum of batch sizes) and seconds inside the backend."""

    calls: int = 0
    samples: int = 0
    seconds: float = 0.0


class Runner(ABC):
    """Base of all backends: ``with runner: outputs = runner(name=tensor, ...)``.

    Set ``synchronize`` to wait for the device before and after a call, so that ``timing.seconds`` is device time.
    ``rebuild`` and ``notify`` apply to backends that run files from the engine store, see
    :meth:`dgkit.engines.store.EngineStore.obtain`; ``options`` controls how those files are built and run.
    """

    dtypes: ClassVar[tuple[str, ...]] = tuple(DTYPES)
    """Supported number formats; a device may support fewer."""
    title: ClassVar[str] = "PyTorch"
    """Name of the library in messages."""
    one_core_builds: ClassVar[bool] = False
    """Whether a build keeps one core busy, so that two processes are faster than one."""

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
        network.check_range(dtype)
        self.network, self.spec = network, network.spec
        self.rebuild, self.notify = check_policy(rebuild), notify
        self.options = options or BuildOptions()
        self.device, self.dtype_name = find_device(device), dtype
        self.dtype = torch.float32 if dtype in QUANTISED else find_dtype(dtype)
        self.synchronize = False
        self.timing = Timing()
        self._is_open = False
        self._setup()

    def check_run(self) -> None:  # noqa: B027 - most backends run wherever torch does
        """Raise MissingDependency, UsageError or EngineError if this machine cannot run the backend at all."""

    def check_build(self) -> None:  # noqa: B027
        """Raise MissingDependency, UsageError or EngineError if this machine cannot build an engine for the backend."""

    def prepare(self) -> list[Engine]:
        """Return the engines that this runner runs; build those that are missing or stale. Opens no device.

        Empty for a backend that runs the module itself. Raises what :meth:`EngineStore.obtain` and the build raise.
        """
        return []

    def free_buffers(self) -> None:  # noqa: B027 - most backends keep none
        """Release the device memory that is kept for the shapes of earlier calls."""

    def held_out(self) -> tuple[dict[str, Tensor], dict[str, Tensor]] | None:
        """Return inputs and fp32 outputs of held-out calls, one sample per row, to measure the error on.

        None unless the network is quantised: random inputs are enough for other engines. Raises what :meth:`prepare`
        raises.
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
        """Run the network once. Inputs, on any device, and outputs, on the runner's device, have their spec names.

        The outputs belong to the caller. Raises EngineError if the runner is not open, or for a wrong name, rank, dtype
        or size.
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

    def place(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors on the runner's device, floating-point ones in its dtype."""
        return {
            name: tensor.detach().to(self.device, self.dtype if tensor.is_floating_point() else None)
            for name, tensor in tensors.items()
        }

    @property
    def engine(self) -> str:
        """Value of ``--engine`` that selects this backend."""
        names = {path.rpartition(".")[2]: name for name, path in RUNNERS.items()}
        return next((names[cls.__name__] for cls in type(self).__mro__ if cls.__name__ in names), "none")

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.spec.name}, {self.device}, {self.dtype_name})"

    def _check_quantised(self, network: Network, dtype: str) -> None:
        if dtype not in self.dtypes:
            raise UsageError(
                f"engine {self.engine!r} does not support {dtype}, only {', '.join(self.dtypes)}; {_QUANTISING[dtype]}",
                f"use --engine {'openvino' if dtype == 'int8' else 'trt'}, or another --dtype",
            )
        if network.calibration is None:
            raise UsageError(
                f"network {network.spec.name!r} does not support {dtype}; only the denoiser does",
                "use bf16 or fp32 for this network",
            )

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

    def _not_opened(self, engine: Engine, path: Path, error: BaseException) -> EngineError:
        """Return the error for an engine file that its library refuses."""
        hint = rebuild_command(engine.key, self.network.model)
        return EngineError(f"{path} cannot be opened: {first_line(error)}", hint)

    def _setup(self) -> None:  # noqa: B027 - most backends need no setup
        """Check that the backend supports device and dtype, and set its attributes; called last in ``__init__``."""

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _run(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]: ...

    @abstractmethod
    def _close(self) -> None: ...


def known_dtype(name: str) -> str:
    """Return ``name`` if an engine supports it as a number format; raise UsageError otherwise."""
    if name not in (*DTYPES, *QUANTISED):
        raise UsageError(f"unknown dtype {name!r}; known: {', '.join((*DTYPES, *QUANTISED))}", "use --dtype fp32")
    return name


def find_dtype(name: str) -> torch.dtype:
    """Return the torch dtype of ``fp32``, ``bf16`` or ``fp16``. Raises UsageError for another name."""
    if name not in DTYPES:
        raise UsageError(f"unknown dtype {name!r}; known: {', '.join(DTYPES)}", "use --dtype fp32")
    return DTYPES[name]


def find_device(name: str) -> torch.device:
    """Return the torch device ``cpu``, ``cuda`` or ``cuda:N``. Raises UsageError if this machine does not have it."""
    kind, _, number = name.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if kind not in ("cpu", "cuda") or (number and (not number.isdigit() or int(number) >= max(count, 1))):
        known = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise UsageError(f"unknown device {name!r}; this machine has {', '.join(known)}", f"use --device {known[-1]}")
    if count == 0:
        raise UsageError(f"device {name!r} is not available: torch sees no CUDA device", "use --device cpu")
    return torch.device(name)


def known_engine(engine: str) -> str:
    """Return ``engine`` if it is known, without importing it; raise UsageError otherwise."""
    if engine not in RUNNERS:
        hint = did_you_mean(engine, RUNNERS, DOCTOR)
        raise UsageError(f"unknown engine {engine!r}; known: {', '.join(RUNNERS)}", hint)
    return engine


def runner_class(engine: str) -> Any:
    """Return the runner class of ``engine``, imported on first use. Raises UsageError for an unknown engine."""
    module, _, name = RUNNERS[known_engine(engine)].rpartition(".")
    return getattr(importlib.import_module(module), name)
