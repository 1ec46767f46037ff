"""OpenVINO on the CPU: a compiled model of each network in the engine store, made from its ONNX graph in fp32.

In bf16 the library computes all that it has bf16 code for in that type (``INFERENCE_PRECISION_HINT``), and the file
holds weights in fp16: finer than bf16, half as large as fp32.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgkit.engines.base import BuildOptions, Network, Runner
from dgkit.engines.export import MODEL, export_engine, graph_key
from dgkit.engines.machine import backend_version, device_facts, package_versions
from dgkit.engines.sidecar import EngineKey
from dgkit.engines.store import Engine, EngineStore, Notify, Policy, rebuild_command
from dgkit.errors import EngineError, UsageError
from dgkit.optional import first_line, openvino_core, require

BLOB = "model.blob"
_HINTS = {"fp32": "f32", "bf16": "bf16"}  # dtype -> inference precision


class OpenVinoRunner(Runner):
    """Runs the compiled model, made on first use unless ``rebuild`` is ``never``; ``notify`` is told of it.

    Inputs and outputs are fp32 tensors on the CPU, outputs fresh. Of the options, ``threads`` counts.
    """

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
        super().__init__(network, device, dtype, rebuild=rebuild, notify=notify, options=options)
        if self.device.type != "cpu" or dtype not in _HINTS:
            raise UsageError(
                f"engine 'openvino' runs on the CPU in {' or '.join(_HINTS)}; asked for {device} in {dtype}",
                "use --dtype bf16, or --engine torch",
            )
        self._request: Any = None
        self._content: np.ndarray | None = None

    def prepare(self) -> list[Engine]:
        capabilities = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if self.dtype_name == "bf16" and "BF16" not in capabilities:  # the library would compute in fp32 unasked
            raise UsageError("engine 'openvino' has no bf16 on this CPU", "use --dtype fp32")
        key = engine_key(self.network, self.dtype_name)
        engine = EngineStore().obtain(
            key, self._build, rebuild=self.rebuild, model=self.network.model, notify=self.notify
        )
        return [engine]

    def _build(self, folder: Path) -> dict[str, Any]:
        library = require("openvino", "cpu")
        graph = export_engine(self.network, self.rebuild, self.notify)
        core, temporary = openvino_core(), [folder / "half.xml", folder / "half.bin"]
        try:
            model = core.read_model(graph.file(MODEL))
            if self.dtype_name != "fp32":
                library.save_model(model, temporary[0], compress_to_fp16=True)
                model = core.read_model(temporary[0])
            compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": _HINTS[self.dtype_name]})
            blob: io.BytesIO = compiled.export_model()
        except RuntimeError as error:
            raise EngineError(f"{self}: OpenVINO cannot compile it: {first_line(error)}", "use --engine ort") from error
        (folder / BLOB).write_bytes(blob.getbuffer())
        for path in temporary:
            path.unlink(missing_ok=True)
        return {"graph": graph.name}

    def _open(self) -> None:
        library = require("openvino", "cpu")
        (engine,) = self.prepare()
        path = engine.file(BLOB)
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[self.dtype_name],
            "INFERENCE_NUM_THREADS": self.options.threads or torch.get_num_threads(),
            "NUM_STREAMS": 1,
        }
        try:
            # Mapped, not read, so that processes share the weights; private, because the API wants it writable.
            self._content = np.memmap(path, dtype=np.uint8, mode="c")
            model = openvino_core().import_model(library.Tensor(self._content, shared_memory=True), "CPU", settings)
            self._request = model.create_infer_request()
        except (RuntimeError, ValueError) as error:
            hint = rebuild_command(engine.key, self.network.model)
            raise EngineError(f"{path} cannot be opened: {first_line(error)}", hint) from error

    def _run(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        feed = {name: _numpy(tensor) for name, tensor in tensors.items()}
        try:
            results = self._request.infer(feed, share_inputs=True, share_outputs=False)  # outputs are copied out
        except RuntimeError as error:
            hint = "images smaller than the model's own size need --engine torch"
            raise EngineError(f"{self}: {first_line(error)}", hint) from error
        return {spec.name: torch.from_numpy(results[spec.name]) for spec in self.spec.outputs}

    def _close(self) -> None:
        self._request = self._content = None


def engine_key(network: Network, dtype: str) -> EngineKey:
    """Key of the compiled model: that of the graph it is made from, this machine's CPU and version of the library."""
    graph = graph_key(network)
    return graph.model_copy(
        update={
            "dtype": dtype,
            "backend": "openvino",
            "backend_version": backend_version("openvino"),
            "versions": {**graph.versions, **package_versions(("onnx",))},
            "device": device_facts("cpu"),
            "flags": {"precision": _HINTS[dtype], "weights": "fp32" if dtype == "fp32" else "fp16"},
        }
    )


def _numpy(tensor: Tensor) -> np.ndarray:
    wanted = torch.float32 if tensor.is_floating_point() else None
    return np.ascontiguousarray(tensor.detach().to("cpu", wanted).numpy())
