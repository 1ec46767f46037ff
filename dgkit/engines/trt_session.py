"""An open engine of TensorRT or TensorRT-RTX on a GPU, called with torch tensors.

Each set of input shapes has its own execution context, because a captured CUDA graph depends on the state of its
context. All contexts share one workspace, owned by torch, because they never run at the same time. A call does not wait
for the GPU.
"""

import contextlib
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgkit.engines.trt_library import TrtLibrary, trt
from dgkit.engines.trt_refit import load_weights
from dgkit.errors import EngineError, OutputError
from dgkit.files import atomic_write

CONTEXTS = 16  # maximum number of contexts; another set of shapes drops the oldest one


@dataclass
class _Plan:
    """The execution context of one set of input shapes; ``graph`` reads and writes the tensors ``static``."""

    context: "trt.IExecutionContext"
    outputs: dict[str, tuple[int, ...]]
    graph: torch.cuda.CUDAGraph | None
    static: dict[str, Tensor]


class Session:
    """Runs an engine file on ``device``. Inputs are cast to the engine's input types; outputs are new tensors.

    ``weights`` is the exported graph that provides the weights of an engine built without any, None for other engines.
    ``streaming`` keeps ``budget`` GiB of the weights on the GPU (None: as many as fit), the others in main memory.
    ``kernels`` is the file in which TensorRT-RTX caches compiled kernels. Raises EngineError if the library cannot run
    the file on this GPU.
    """

    def __init__(
        self,
        library: TrtLibrary,
        file: Path,
        device: torch.device,
        *,
        cuda_graph: bool,
        weights: Path | None,
        kernels: Path,
        streaming: bool = False,
        budget: float | None = None,
    ) -> None:
        self._library, self._device, self._kernels = library, device, kernels
        # With weight streaming the library takes its workspace itself, and no graph can refer to it.
        self._cuda_graph, self._streaming = cuda_graph and not streaming, streaming
        library.reason()  # clears earlier messages
        with torch.cuda.device(device):
            self._stream = torch.cuda.Stream(device)  # TensorRT synchronises on the default stream
            self._runtime = trt.Runtime(library.logger)
            self._engine = self._deserialise(file)
            if weights is not None:
                load_weights(library, self._engine, weights)
            if streaming:
                self._stream_weights(budget)
            self._cache, self._config = self._configure()
        self._dtypes = self._tensor_types()
        self._workspace = torch.empty(0, dtype=torch.uint8, device=device)
        self._plans: dict[tuple[Any, ...], _Plan] = {}

    def run(self, profile: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the outputs by name, on the device, for inputs that fit the optimisation profile ``profile``."""
        with torch.cuda.device(self._device), torch.no_grad():
            plan = self._plan(profile, tensors)
            if plan.graph is None:
                return self._execute(plan, tensors)
            for name, value in tensors.items():
                plan.static[name].copy_(value, non_blocking=_need_not_wait(value))
            plan.graph.replay()
            return {name: plan.static[name].clone() for name in plan.outputs}

    def clear(self) -> None:
        """Release the contexts and graphs of all shapes, and the workspace; later calls make them again."""
        for key in list(self._plans):
            self._drop(key)
        self._workspace = torch.empty(0, dtype=torch.uint8, device=self._device)

    def close(self) -> None:
        """Save the compiled kernels and release the GPU memory."""
        torch.cuda.synchronize(self._device)
        if self._cache is not None:
            with contextlib.suppress(OutputError):  # a read-only store: kernels are compiled again next time
                atomic_write(self._kernels, bytes(self._cache.serialize()))
        self._plans.clear()
        del self._config, self._cache, self._engine, self._runtime, self._workspace

    def _deserialise(self, file: Path) -> "trt.ICudaEngine":
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            engine = self._runtime.deserialize_cuda_engine(content)
            if engine is None:
                raise EngineError(f"{file} cannot be run on this GPU: {self._refusal(content)}", "use --engine torch")
        return engine

    def _refusal(self, content: mmap.mmap) -> str:
        """Return why the library refuses an engine; TensorRT-RTX gives details."""
        reason = self._library.reason()
        if hasattr(self._runtime, "get_engine_validity"):
            _, bits = self._runtime.get_engine_validity(content)
            known = trt.EngineInvalidityDiagnostics.__members__.items()
            found = [name.lower().replace("_", " ") for name, value in known if int(value) & int(bits)]
            major, minor = torch.cuda.get_device_capability(self._device)
            reason = f"{', '.join(found) or reason} (compute capability {major}.{minor})"
        return reason

    def _stream_weights(self, budget: float | None) -> None:
        """Keep ``budget`` GiB of the weights on the GPU, or as many as fit, and the others in main memory."""
        engine = self._engine
        size = engine.get_weight_streaming_automatic_budget() if budget is None else int(budget * 2**30)
        engine.weight_streaming_budget_v2 = min(size, engine.streamable_weights_size)

    def _configure(self) -> tuple[Any, Any]:
        """Return the cache of compiled kernels (None for TensorRT), and the settings of new contexts."""
        if not self._library.is_rtx:
            return None, self._allocation()
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(self._allocation())
        # Compile kernels for a new shape before its first run, not in parallel: a graph captures the kernels in use.
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        cache = config.create_runtime_cache()
        if self._kernels.is_file():
            cache.deserialize(self._kernels.read_bytes())  # ignored if another GPU or driver wrote it
        config.set_runtime_cache(cache)
        return cache, config

    def _allocation(self) -> Any:
        kinds = trt.ExecutionContextAllocationStrategy
        return kinds.ON_PROFILE_CHANGE if self._streaming else kinds.USER_MANAGED

    def _tensor_types(self) -> dict[str, torch.dtype]:
        kinds = trt.DataType
        known = {
            kinds.FLOAT: torch.float32,
            kinds.HALF: torch.float16,
            kinds.BF16: torch.bfloat16,
            kinds.INT32: torch.int32,
            kinds.INT64: torch.int64,
        }
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        return {name: known[self._engine.get_tensor_dtype(name)] for name in names}

    def _plan(self, profile: int, tensors: Mapping[str, Tensor]) -> _Plan:
        key = (profile, *(tuple(value.shape) for value in tensors.values()))
        if key not in self._plans:
            while len(self._plans) >= CONTEXTS:
                self._drop(next(iter(self._plans)))
            plan = self._prepare(profile, tensors)
            self._plans[key] = plan
            if self._cuda_graph:
                self._capture(plan, tensors)
        return self._plans[key]

    def _prepare(self, profile: int, tensors: Mapping[str, Tensor]) -> _Plan:
        """Create a context for the shapes of ``tensors``, and enlarge the workspace if needed."""
        context = self._engine.create_execution_context(self._config)
        if context is None:
            raise EngineError(f"cannot create an execution context: {self._library.reason()}", "use a smaller batch")
        ready = context.set_optimization_profile_async(profile, self._stream.cuda_stream)
        self._stream.synchronize()
        for name, value in tensors.items():
            ready = ready and context.set_input_shape(name, tuple(value.shape))
        if not ready or context.infer_shapes():
            shapes = {name: list(value.shape) for name, value in tensors.items()}
            raise EngineError(f"the engine does not support inputs of shape {shapes}: {self._library.reason()}")
        if not self._streaming:
            self._give_workspace(context)
        outputs: dict[str, tuple[int, ...]] = {
            n: tuple(context.get_tensor_shape(n)) for n in self._dtypes if n not in tensors
        }
        return _Plan(context, outputs, None, {})

    def _give_workspace(self, context: Any) -> None:
        """Let a context use the common workspace, enlarged if its shapes need more."""
        size = context.update_device_memory_size_for_shapes()
        if size > self._workspace.numel():
            for key in list(self._plans):  # their graphs refer to the old workspace
                self._drop(key)
            self._workspace = torch.empty(0, dtype=torch.uint8, device=self._device)
            self._workspace = torch.empty(size, dtype=torch.uint8, device=self._device)
        context.set_device_memory(self._workspace.data_ptr(), self._workspace.numel())

    def _drop(self, key: tuple[Any, ...]) -> None:
        torch.cuda.synchronize(self._device)  # its graph may still run
        del self._plans[key]

    def _capturable(self, plan: _Plan) -> bool:
        """Return whether the engine can be captured. TensorRT-RTX knows after a run; TensorRT captures every engine
        without control flow, which ours do not have.
        """
        query = getattr(plan.context, "is_stream_capturable", None)
        return query is None or bool(query(self._stream.cuda_stream))

    def _capture(self, plan: _Plan, tensors: Mapping[str, Tensor]) -> None:
        """Run once to compile and load kernels, then capture a second run into a CUDA graph if the library can."""
        static = {name: self._empty(name, tuple(value.shape)) for name, value in tensors.items()}
        for name, value in tensors.items():
            static[name].copy_(value)
        static |= {name: self._empty(name, shape) for name, shape in plan.outputs.items()}
        self._enqueue(plan, static)
        torch.cuda.synchronize(self._device)
        if not self._capturable(plan):
            return
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._bind_and_run(plan, static, self._stream)
        except RuntimeError as error:
            message = f"the engine cannot be captured into a CUDA graph: {self._library.reason()}"
            raise EngineError(message, "set the option cuda_graph to false") from error
        plan.graph, plan.static = graph, static

    def _execute(self, plan: _Plan, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        placed = {
            name: value.to(self._device, self._dtypes[name], non_blocking=_need_not_wait(value)).contiguous()
            for name, value in tensors.items()
        }
        outputs = {name: self._empty(name, shape) for name, shape in plan.outputs.items()}
        self._enqueue(plan, placed | outputs)
        return outputs

    def _enqueue(self, plan: _Plan, tensors: Mapping[str, Tensor]) -> None:
        """Run on the session's stream, after the work queued on the caller's stream and before later work there.

        This order keeps the caching allocator, which follows the caller's stream, from reusing a tensor too early.
        """
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        self._bind_and_run(plan, tensors, self._stream)
        current.wait_stream(self._stream)

    def _bind_and_run(self, plan: _Plan, tensors: Mapping[str, Tensor], stream: torch.cuda.Stream) -> None:
        for name, value in tensors.items():
            plan.context.set_tensor_address(name, value.data_ptr())
        if not plan.context.execute_async_v3(stream.cuda_stream):
            raise EngineError(f"the engine failed: {self._library.reason()}")

    def _empty(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, dtype=self._dtypes[name], device=self._device)


def _need_not_wait(value: Tensor) -> bool:
    """Return whether a copy of ``value`` may be asynchronous: pinned memory could be read after the call returns."""
    return value.is_cuda or not value.is_pinned()
