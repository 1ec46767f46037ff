"""ONNX Runtime, which runs the exported graph of a network: in fp32 on a CPU, in fp32 and fp16 on a GPU.

A GPU needs the package ``onnxruntime-gpu``. See the documentation of ONNX Runtime, "CUDA Execution Provider",
"TensorRT Execution Provider" and "I/O Binding".
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgkit.engines.onnx_export import MODEL, check_export, export_engine
from dgkit.engines.runner import SMALL_IMAGE_HINT, Network, Runner
from dgkit.engines.store import Engine
from dgkit.errors import EngineError, MissingDependency, UsageError
from dgkit.optional import first_line, install_command, require
from dgkit.resources import usable_cores

_DTYPES = {"cpu": ("fp32",), "cuda": ("fp32", "fp16")}
_NUMPY = {torch.float32: np.float32, torch.float16: np.float16, torch.int64: np.int64}
_CUDA, _TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"


class OrtRunner(Runner):
    """Runs an ONNX file, which is exported on first use unless ``rebuild`` is ``never``; ``notify`` reports an export.

    Outputs are new tensors in the runner's dtype; on a GPU inputs and outputs stay there. Options used: ``threads`` on
    a CPU. On a GPU an ``optimisation_level`` selects TensorRT's provider before CUDA's. That provider builds an engine
    at the first call of each shape and does not keep it; for repeated use take the engine ``trt``.
    """

    dtypes = ("fp32", "fp16")
    title = "ONNX"
    one_core_builds = True

    def _setup(self) -> None:
        if self.dtype_name not in _DTYPES[self.device.type]:
            raise UsageError(
                f"engine 'ort' does not support {self.dtype_name} on {self.device}, only fp32 on a CPU, and fp32 and "
                "fp16 on a GPU",
                "use --engine torch, or --dtype fp32",
            )
        self._session: Any = None

    def check_run(self) -> None:
        """Raise MissingDependency unless an ONNX Runtime for the device is installed."""
        self._load()

    def check_build(self) -> None:
        """Raise MissingDependency unless the packages of the export are installed."""
        check_export()

    def _load(self) -> tuple[Any, list[tuple[str, dict[str, Any]]]]:
        """Return the library and the providers to use."""
        runtime = require("onnxruntime", "cpu" if self.device.type == "cpu" else "gpu")
        return runtime, self._providers(runtime.get_available_providers())

    def prepare(self) -> list[Engine]:
        """Return the exported graph of the network, exported if missing or stale."""
        return [export_engine(self.network, self.rebuild, self.notify, dtype=self.dtype_name)]

    def _open(self) -> None:
        runtime, providers = self._load()
        (engine,) = self.prepare()
        path = engine.file(MODEL)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self.options.threads or min(torch.get_num_threads(), len(usable_cores()))
        options.log_severity_level = 3
        try:
            session = runtime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime raises its own unrelated classes
            raise self._not_opened(engine, path, error) from error
        found, wanted = session.get_providers(), providers[0][0]
        if wanted not in found:  # ONNX Runtime silently falls back to the next provider
            raise EngineError(
                f"{self}: {wanted} does not load; ONNX Runtime would use {found[0]}",
                "see dgkit doctor, or use --device cpu",
            )
        self._session = session

    def _providers(self, available: list[str]) -> list[tuple[str, dict[str, Any]]]:
        if self.device.type == "cpu":
            return [("CPUExecutionProvider", {})]
        if _CUDA not in available:
            raise MissingDependency(
                f"the installed onnxruntime has no {_CUDA}, only {', '.join(available)}",
                f"pip uninstall onnxruntime, then {install_command('gpu')}",
            )
        number = {"device_id": self.device.index or 0}
        cuda = (_CUDA, {**number, "use_tf32": 0})
        level = self.options.optimisation_level
        if level is None:
            return [cuda]
        if _TENSORRT not in available:
            raise MissingDependency(
                f"the installed onnxruntime has no {_TENSORRT}, which an optimisation level selects",
                "leave out the optimisation level",
            )
        return [(_TENSORRT, {**number, "trt_builder_optimization_level": level}), cuda]

    def _run(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        try:
            return self._run_bound(tensors) if self.device.type == "cuda" else self._run_on_cpu(tensors)
        except Exception as error:  # see _open
            raise EngineError(f"{self}: {first_line(error)}", SMALL_IMAGE_HINT) from error

    def _run_on_cpu(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        feed = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in self.place(tensors).items()}
        names = [spec.name for spec in self.spec.outputs]
        values = self._session.run(names, feed)
        return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}

    def _run_bound(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Run without copies to the CPU: ONNX Runtime reads and writes the memory of torch's tensors."""
        inputs = {name: tensor.contiguous() for name, tensor in self.place(tensors).items()}
        outputs = {
            name: torch.empty(shape, dtype=self.dtype, device=self.device)
            for name, shape in output_shapes(self.network, inputs).items()
        }
        binding = self._session.io_binding()
        for bind, values in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
            for name, value in values.items():
                index = self.device.index or 0
                bind(name, "cuda", index, _NUMPY[value.dtype], tuple(value.shape), value.data_ptr())
        torch.cuda.current_stream(self.device).synchronize()  # ONNX Runtime has a stream of its own
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return outputs

    def _close(self) -> None:
        self._session = None


def output_shapes(network: Network, inputs: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each output of a call by name.

    A size that no input states is the model's own; for spatial sizes it is scaled by pixels per latent cell.
    """
    known = {
        symbol: size
        for spec in network.spec.inputs
        for symbol, size in zip(spec.shape, inputs[spec.name].shape, strict=True)
    }
    sizes = {**network.sizes, **known}
    for cells, pixels in (("height", "image_height"), ("width", "image_width")):
        factor = network.sizes[pixels] // network.sizes[cells]
        if pixels in known:
            sizes[cells] = known[pixels] // factor
        elif cells in known:
            sizes[pixels] = known[cells] * factor
    return {spec.name: tuple(sizes[symbol] for symbol in spec.shape) for spec in network.spec.outputs}
