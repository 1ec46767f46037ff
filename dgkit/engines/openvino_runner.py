"""OpenVINO on the CPU: a compiled model of each network in the engine store, made from its ONNX graph in fp32.

In bf16 the library computes all that it has bf16 code for in that type (``INFERENCE_PRECISION_HINT``), and the file
holds weights in fp16: finer than bf16, half as large as fp32. In int8 most products are quantised, see
:mod:`dgkit.engines.quantise`, and the rest is bf16 where the CPU has it, else fp32.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgkit.engines.machine import backend_version, device_facts, package_versions
from dgkit.engines.onnx_export import MODEL, TOLERANCES, export_engine, graph_key, relative_error
from dgkit.engines.openvino_graph import join_norms
from dgkit.engines.quantise import SCOPE, load_nncf, quantised
from dgkit.engines.runner import QUANTISED, BuildOptions, Call, Network, Runner
from dgkit.engines.sidecar import EngineKey
from dgkit.engines.store import Engine, EngineStore, Policy, rebuild_command
from dgkit.errors import EngineError, UsageError
from dgkit.optional import first_line, openvino_core, require
from dgkit.progress import Notify

BLOB = "model.blob"
HELD_OUT = "held_out.npz"  # of a quantised engine: calls that did not calibrate it


class OpenVinoRunner(Runner):
    """Runs the compiled model, made on first use unless ``rebuild`` is ``never``; ``notify`` is told of it.

    Inputs and outputs are fp32 tensors on the CPU, outputs fresh. Of the options, ``threads`` counts.
    """

    dtypes = ("fp32", "bf16", "int8")

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
        if self.device.type != "cpu" or dtype not in self.dtypes:
            raise UsageError(
                f"engine 'openvino' runs on the CPU in {', '.join(self.dtypes[:-1])} or {self.dtypes[-1]}; asked for "
                f"{device} in {dtype}",
                "use --dtype bf16, or --engine torch",
            )
        self._request: Any = None
        self._content: np.ndarray | None = None

    def prepare(self) -> list[Engine]:
        if self.dtype_name == "bf16" and not has_bf16():  # the library would compute in fp32 unasked
            raise UsageError("engine 'openvino' has no bf16 on this CPU", "use --dtype fp32")
        key = engine_key(self.network, self.dtype_name)
        engine = EngineStore().obtain(
            key, self._build, rebuild=self.rebuild, model=self.network.model, notify=self.notify
        )
        return [engine]

    def _build(self, folder: Path) -> dict[str, Any]:
        library = require("openvino", "cpu")
        if self.dtype_name in QUANTISED:
            load_nncf()  # before minutes of work for nothing
        graph = export_engine(self.network, self.rebuild, self.notify)
        calls, held_out = self._draw_calls() if self.dtype_name in QUANTISED else ((), ())
        core, temporary = openvino_core(), [folder / "half.xml", folder / "half.bin"]
        try:
            model = core.read_model(graph.file(MODEL))
            join_norms(model)
            if calls:
                model, calls = quantised(model, calls), ()
            if self.dtype_name != "fp32":
                library.save_model(model, temporary[0], compress_to_fp16=True)
                model = core.read_model(temporary[0])
            compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": _precision(self.dtype_name)})
            notes = self._verify(compiled, held_out, folder) if held_out else {}
            blob: io.BytesIO = compiled.export_model()
        except RuntimeError as error:
            raise EngineError(f"{self}: OpenVINO cannot compile it: {first_line(error)}", "use --engine ort") from error
        (folder / BLOB).write_bytes(blob.getbuffer())
        for path in temporary:
            path.unlink(missing_ok=True)
        return {"graph": graph.name, **notes}

    def _draw_calls(self) -> tuple[Sequence[Call], Sequence[Call]]:
        assert self.network.calibration is not None
        if self.notify:
            self.notify(f"drawing scenes in fp32 to calibrate the {self.spec.name} for {self.dtype_name}")
        return self.network.calibration.draw()

    def _verify(self, compiled: Any, held_out: Sequence[Call], folder: Path) -> dict[str, Any]:
        """Notes with the error of each output over all calls that are held out; keeps these in ``folder``."""
        request, errors, found = compiled.create_infer_request(), {}, list[dict[str, np.ndarray]]()
        for call in held_out:
            results = request.infer({spec.name: call[spec.name] for spec in self.spec.inputs}, share_outputs=False)
            found.append({spec.name: results[spec.name] for spec in self.spec.outputs})
        calls: dict[str, Any] = {name: np.concatenate([call[name] for call in held_out]) for name in held_out[0]}
        for spec in self.spec.outputs:
            off = relative_error(np.concatenate([values[spec.name] for values in found]), calls[spec.name])
            errors[spec.name] = off
            if not off <= TOLERANCES[self.dtype_name]:
                raise EngineError(
                    f"{self}: {spec.name} is off by {off:.1e} from PyTorch on calls that did not calibrate it; allowed "
                    f"are {TOLERANCES[self.dtype_name]:.0e}",
                    "use --dtype bf16",
                )
        np.savez(folder / HELD_OUT, **calls)
        return {"error": errors, "held_out": len(held_out)}

    def held_out(self) -> tuple[dict[str, Tensor], dict[str, Tensor]] | None:
        if self.dtype_name not in QUANTISED:
            return None
        (engine,) = self.prepare()
        with np.load(engine.file(HELD_OUT)) as file:
            inputs, outputs = (
                {spec.name: torch.from_numpy(file[spec.name]) for spec in specs}
                for specs in (self.spec.inputs, self.spec.outputs)
            )
        return inputs, outputs

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
    """Key of the compiled model: that of the graph it is made from, this machine's CPU and version of the library; of
    a quantised one also how it is calibrated, and the version of NNCF.
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
    """Whether OpenVINO computes in bf16 on this CPU. MissingDependency where it is not installed."""
    return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _precision(dtype: str) -> str:
    """What everything is computed in that is not quantised."""
    return "f32" if dtype == "fp32" or (dtype in QUANTISED and not has_bf16()) else "bf16"


def _numpy(tensor: Tensor) -> np.ndarray:
    wanted = torch.float32 if tensor.is_floating_point() else None
    return np.ascontiguousarray(tensor.detach().to("cpu", wanted).numpy())
