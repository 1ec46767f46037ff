"""OpenVINO on the CPU: a compiled model of each network in the engine store, made from its fp32 ONNX graph.

In bf16 the library uses bf16 for every operation that supports it (``INFERENCE_PRECISION_HINT``); the file has
weights in fp16, which is more precise than bf16 and half the size of fp32. In int8 most products are quantised, see
:mod:`dgkit.engines.quantise`; the rest runs in bf16 if the CPU supports it, else in fp32.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgkit.engines.held_out_calls import read_calls, record_calls, verify_calls
from dgkit.engines.machine import backend_version, device_facts, package_versions
from dgkit.engines.onnx_export import MODEL, check_export, export_engine, graph_key
from dgkit.engines.openvino_graph import join_norms
from dgkit.engines.quantise import SCOPE, load_nncf, quantised
from dgkit.engines.runner import QUANTISED, SMALL_IMAGE_HINT, Call, Network, Runner
from dgkit.engines.sidecar import EngineKey
from dgkit.engines.store import Engine, EngineStore
from dgkit.errors import EngineError, UsageError
from dgkit.optional import first_line, openvino_core, require

BLOB = "model.blob"


class OpenVinoRunner(Runner):
    """Runs a compiled model, which is built on first use unless ``rebuild`` is ``never``; ``notify`` reports a build.

    Inputs and outputs are fp32 tensors on the CPU; outputs are new. Option used: ``threads``.
    """

    dtypes = ("fp32", "bf16", "int8")
    title = "OpenVINO"
    one_core_builds = True

    def _setup(self) -> None:
        if self.device.type != "cpu" or self.dtype_name not in self.dtypes:
            raise UsageError(
                f"engine 'openvino' does not support {self.dtype_name} on {self.device}, only "
                f"{', '.join(self.dtypes)} on the CPU",
                "use --device cpu --dtype bf16, or --engine torch",
            )
        self._request: Any = None
        self._content: np.ndarray | None = None

    def check_run(self) -> None:
        """Raise MissingDependency without OpenVINO, UsageError for bf16 on a CPU that lacks it."""
        if self.dtype_name == "bf16" and not has_bf16():  # the library would silently compute in fp32
            raise UsageError("engine 'openvino' does not support bf16 on this CPU", "use --dtype fp32")
        openvino_core()

    def check_build(self) -> None:
        """Raise MissingDependency without OpenVINO, the packages of the export or, for int8, NNCF."""
        self.check_run()
        check_export()
        if self.dtype_name in QUANTISED:
            load_nncf()  # fails before minutes of work, not after

    def prepare(self) -> list[Engine]:
        """Return the compiled model of the network, built if missing or stale."""
        self.check_run()
        key = engine_key(self.network, self.dtype_name)
        engine = EngineStore().obtain(
            key, self._build, rebuild=self.rebuild, model=self.network.model, notify=self.notify
        )
        return [engine]

    def _build(self, folder: Path) -> dict[str, Any]:
        self.check_build()
        library = require("openvino", "cpu")
        graph = export_engine(self.network, self.rebuild, self.notify)
        calls: Sequence[Call] = ()
        held_out: Sequence[Call] = ()
        if self.dtype_name in QUANTISED:
            calls, held_out = record_calls(self.network, self.dtype_name, self.notify)
        core, temporary = openvino_core(), [folder / "half.xml", folder / "half.bin"]
        try:
            model = core.read_model(graph.file(MODEL))
            join_norms(model)
            if calls:
                model, calls = quantised(model, calls), ()
            if self.dtype_name != "fp32":
                library.save_model(model, temporary[0], compress_to_fp16=True)
                model = core.read_model(temporary[0])
            compiled = core.compile_model(model, "CPU", precision_hint(self.dtype_name))
            notes = self._verify(compiled, held_out, folder) if held_out else {}
            blob: io.BytesIO = compiled.export_model()
        except RuntimeError as error:
            raise EngineError(
                f"{self}: OpenVINO cannot compile the graph: {first_line(error)}", "use --engine ort"
            ) from error
        (folder / BLOB).write_bytes(blob.getbuffer())
        for path in temporary:
            path.unlink(missing_ok=True)
        return {"graph": graph.name, **notes}

    def _verify(self, compiled: Any, held_out: Sequence[Call], folder: Path) -> dict[str, Any]:
        """Return the side-car notes with the error of each output over the held-out calls; save those in ``folder``."""
        request = compiled.create_infer_request()

        def run(call: Call) -> dict[str, np.ndarray]:
            results = request.infer({spec.name: call[spec.name] for spec in self.spec.inputs}, share_outputs=False)
            return {spec.name: results[spec.name] for spec in self.spec.outputs}

        return verify_calls(self.network, self.dtype_name, held_out, run, folder)

    def held_out(self) -> tuple[dict[str, Tensor], dict[str, Tensor]] | None:
        """Return inputs and fp32 outputs of the calls that a quantised engine was verified on; None for others."""
        if self.dtype_name not in QUANTISED:
            return None
        (engine,) = self.prepare()
        return read_calls(engine, self.spec)

    def _open(self) -> None:
        library = require("openvino", "cpu")
        (engine,) = self.prepare()
        path = engine.file(BLOB)
        settings = {
            "INFERENCE_PRECISION_HINT": _precision(self.dtype_name),
            "INFERENCE_NUM_THREADS": self.options.threads or torch.get_num_threads(),
            "NUM_STREAMS": 1,
        }
        try:
            # Mapped instead of read, so that processes share the weights; private, because the API writes to it.
            self._content = np.memmap(path, dtype=np.uint8, mode="c")
            model = openvino_core().import_model(library.Tensor(self._content, shared_memory=True), "CPU", settings)
            self._request = model.create_infer_request()
        except (RuntimeError, ValueError) as error:
            raise self._not_opened(engine, path, error) from error

    def place(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors on the CPU, floating-point ones in fp32 at any precision of the engine."""
        kinds = {name: torch.float32 if tensor.is_floating_point() else None for name, tensor in tensors.items()}
        return {name: tensor.detach().to("cpu", kinds[name]) for name, tensor in tensors.items()}

    def _run(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        feed = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in self.place(tensors).items()}
        try:
            results = self._request.infer(feed, share_inputs=True, share_outputs=False)  # copies the outputs
        except RuntimeError as error:
            raise EngineError(f"{self}: {first_line(error)}", SMALL_IMAGE_HINT) from error
        return {spec.name: torch.from_numpy(results[spec.name]) for spec in self.spec.outputs}

    def _close(self) -> None:
        self._request = self._content = None


def engine_key(network: Network, dtype: str) -> EngineKey:
    """Return the key of the compiled model: that of its graph plus this machine's CPU and OpenVINO version.

    The key of a quantised model also holds the calibration settings and the version of NNCF.
    """
    graph = graph_key(network)
    weights = "fp32" if dtype == "fp32" else "fp16"
    flags: dict[str, Any] = {"precision": _precision(dtype), "weights": weights, "norms": "joined"}
    if dtype in QUANTISED and network.calibration is not None:
        flags |= {"quantised": SCOPE, **network.calibration.facts()}
    packages = ("onnx", "nncf") if dtype in QUANTISED else ("onnx",)
    return graph.model_copy(
        update={
            "dtype": dtype,
            "backend": "openvino",
            "backend_version": backend_version("openvino"),
            "versions": {**graph.versions, **package_versions(packages)},
            "device": device_facts("cpu"),
            "flags": flags,
        }
    )


def has_bf16() -> bool:
    """Return whether OpenVINO computes in bf16 on this CPU. Raises MissingDependency if it is not installed."""
    return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def precision_hint(dtype: str) -> dict[str, str]:
    """Return OpenVINO's setting of the precision for operations that are not quantised."""
    return {"INFERENCE_PRECISION_HINT": _precision(dtype)}


def _precision(dtype: str) -> str:
    return "f32" if dtype == "fp32" or (dtype in QUANTISED and not has_bf16()) else "bf16"
