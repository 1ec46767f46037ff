"""ONNX Runtime, which runs the exported graph of a network: in fp32 on a CPU, in fp32 and fp16 on a GPU.

A GPU needs the package ``onnxruntime-gpu``. See :mod:`dgkit.engines.ort_providers`, and the documentation of ONNX
Runtime, "I/O Binding".
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgkit.engines.onnx_export import MODEL, check_export, export_engine, graph_key
from dgkit.engines.ort_providers import Provider, ProviderPlan, check_taken, order_note, requested
from dgkit.engines.runner import SMALL_IMAGE_HINT, Network, Runner
from dgkit.engines.store import Engine, EngineStore
from dgkit.engines.trt_build import profiles
from dgkit.errors import EngineError, UsageError
from dgkit.optional import first_line, require
from dgkit.resources import usable_cores

_DTYPES = {"cpu": ("fp32",), "cuda": ("fp32", "fp16")}
_NUMPY = {torch.float32: np.float32, torch.float16: np.float16, torch.int64: np.int64}


class OrtRunner(Runner):
    """Runs an ONNX file, which is exported on first use unless ``rebuild`` is ``never``; ``notify`` reports an export,
    and on a GPU the order of the execution providers.

    Outputs are new tensors on the runner's device in its dtype; ONNX Runtime reads and writes torch's memory. Options
    used: ``providers`` and, on a CPU, ``threads``. On a GPU an ``optimisation_level`` selects TensorRT's provider
    before CUDA's. The providers of TensorRT build engines at the first call and keep them in hidden folders of the
    engine store.
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
        requested(self.device, self.options)  # fails before anything is exported
        self._session: Any = None

    def check_run(self) -> None:
        """Raise MissingDependency unless an ONNX Runtime with the requested providers is installed."""
        self._load()

    def check_build(self) -> None:
        """Raise MissingDependency unless the packages of the export are installed."""
        check_export()

    def _load(self) -> tuple[Any, list[Provider]]:
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
        check_taken(providers, session.get_providers(), str(self))
        if self.notify and self.device.type == "cuda":
            self.notify(order_note(providers, self.spec.name))
        self._session = session

    def _providers(self, available: Sequence[str]) -> list[Provider]:
        ranges, *others = profiles(self.network, self.options.batch)

        def cache() -> Path:
            return EngineStore().root / f".{graph_key(self.network, self.dtype_name).name}.providers"

        one_range = {} if others else ranges  # several profiles: an engine for each new shape
        plan = ProviderPlan(self.network, self.device, self.dtype_name, self.options, one_range, cache)
        return plan.providers(available)

    def _run(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs = {name: tensor.contiguous() for name, tensor in self.place(tensors).items()}
        outputs = {
            name: torch.empty(shape, dtype=self.dtype, device=self.device)
            for name, shape in output_shapes(self.network, inputs).items()
        }
        try:
            self._run_bound(inputs, outputs)
        except Exception as error:  # see _open
            raise EngineError(f"{self}: {first_line(error)}", SMALL_IMAGE_HINT) from error
        return outputs

    def _run_bound(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        binding = self._session.io_binding()
        place = (self.device.type, self.device.index or 0)
        for bind, values in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
            for name, value in values.items():
                bind(name, *place, _NUMPY[value.dtype], tuple(value.shape), value.data_ptr())
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # ONNX Runtime has a stream of its own
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()

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
