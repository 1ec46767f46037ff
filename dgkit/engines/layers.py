"""Where two backends part: the outputs of the layers of a network on both, in the order in which they are computed.

A layer is a module without parts that is called once. PyTorch gives its output to a hook. In an exported graph it is
the last tensor whose node lies in the scope of that module, which the exporter notes; the graph is run with these
tensors as outputs of their own. So a backend that takes ONNX graphs is compared with any other, in the precision of the
graph that it would run. Fusions across layers, which such outputs prevent, are what this cannot show.
"""

import ast
import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dgkit.engines.compare import EngineSpec, OutputCheck, compare_outputs
from dgkit.engines.modules import cast
from dgkit.engines.onnx_export import MODEL, SCOPES, TOLERANCES, example_inputs, export_engine, run_graph
from dgkit.engines.runner import DTYPES, QUANTISED, BuildOptions, Network, find_device, find_dtype
from dgkit.engines.store import EngineStore, Policy
from dgkit.errors import EngineError, UsageError
from dgkit.optional import openvino_core, require
from dgkit.progress import Notify

Values = dict[str, Tensor]
"""Outputs by path of the module, float32 on the CPU."""


@dataclass(frozen=True)
class LayerReport:
    """``checks`` in the order of computation; each ``output`` is the path of a module in the network."""

    network: str
    checks: tuple[OutputCheck, ...]

    @property
    def first(self) -> OutputCheck | None:
        """The first layer past the tolerance or with a value that is not finite, None where there is none."""
        return next((check for check in self.checks if not check.passed), None)

    @property
    def worst(self) -> OutputCheck:
        """The layer with the largest error; values that are not finite count as the largest."""
        return max(self.checks, key=lambda check: float("inf") if check.not_finite else check.relative)


@dataclass(frozen=True)
class _Job:
    """What a backend needs to give the outputs of ``layers``."""

    network: Network
    dtype: str
    device: torch.device
    inputs: Mapping[str, Tensor]
    layers: Sequence[str]
    rebuild: Policy
    notify: Notify | None


def check_layers(
    load: Callable[[], Network],
    first: EngineSpec,
    second: EngineSpec,
    *,
    device: str = "cpu",
    batch: int = 2,
    seed: int = 0,
    rebuild: Policy = "auto",
    notify: Notify | None = None,
) -> LayerReport:
    """Compare the layers of a network on two sides; ``load`` and the inputs are those of ``check_network``.

    UsageError for a backend whose layers cannot be seen or a batch that is not positive; EngineError where a side
    cannot be run here or no layer is seen on both.
    """
    for side in (first, second):
        if side.engine not in _TRACERS:
            raise UsageError(f"the layers of engine {side.engine!r} cannot be seen; those of {', '.join(_TRACERS)} can")
        if side.dtype in QUANTISED:
            raise UsageError(f"the layers of {side} cannot be seen; those in {', '.join(DTYPES)} can")
    if batch < 1:
        raise UsageError(f"batch {batch}; allowed are 1 and more")
    network = load()
    inputs = example_inputs(network, batch=batch, seed=seed)
    layers = list(_run_hooked(network.load().float().eval(), list(inputs.values()), keep=False))
    found = []
    for side in (first, second):
        job = _Job(load(), side.dtype, find_device(device), inputs, layers, rebuild, notify)
        found.append(_TRACERS[side.engine](job))
    expected, other = found
    both = [name for name in layers if name in expected and name in other and expected[name].shape == other[name].shape]
    if not both:
        raise EngineError(f"{network.spec.name}: {first} and {second} have no layer in common to compare")
    tolerance = max(TOLERANCES[side.dtype] for side in (first, second))
    sides = (str(first), str(second))
    checks = compare_outputs(network.spec.name, sides, {name: expected[name] for name in both}, other, tolerance)
    return LayerReport(network.spec.name, tuple(checks))


def _run_hooked(module: nn.Module, arguments: Sequence[Tensor], *, keep: bool = True) -> Values:
    """Outputs of all modules without parts that are called once; empty tensors unless ``keep``."""
    values: Values = {}
    counts: dict[str, int] = {}

    def record(name: str) -> Callable[[Any, Any, Any], None]:
        def hook(part: Any, given: Any, result: Any) -> None:
            counts[name] = counts.get(name, 0) + 1
            if isinstance(result, Tensor):
                values[name] = result.detach().float().cpu() if keep else torch.empty(0)

        return hook

    parts = [(name, part) for name, part in module.named_modules() if name and not list(part.children())]
    handles = [part.register_forward_hook(record(name)) for name, part in parts]
    try:
        with torch.no_grad():
            module(*arguments)
    finally:
        for handle in handles:
            handle.remove()
    return {name: value for name, value in values.items() if counts[name] == 1}


def _trace_torch(job: _Job) -> Values:
    kind = find_dtype(job.dtype)
    module = cast(job.network.load(), job.device, kind)
    placed = [v.to(job.device, kind if v.is_floating_point() else None) for v in job.inputs.values()]
    return _run_hooked(module, placed)


def _trace_ort(job: _Job) -> Values:
    if job.dtype == "bf16":
        raise UsageError("ONNX Runtime has no bf16 for the CPU; allowed are ort:fp32 and ort:fp16")
    with _marked(job, job.dtype) as (path, tensors):
        found = run_graph(path, job.inputs, job.dtype)
        return {layer: torch.from_numpy(found[name]).float() for layer, name in tensors.items()}


def _trace_openvino(job: _Job) -> Values:
    if job.dtype == "fp16":
        raise UsageError("OpenVINO has no fp16 for the CPU; allowed are openvino:fp32 and openvino:bf16")
    hint = {"INFERENCE_PRECISION_HINT": "bf16" if job.dtype == "bf16" else "f32"}
    with _marked(job, "fp32") as (path, tensors):
        compiled = openvino_core().compile_model(str(path), "CPU", hint)
        found = compiled({name: value.numpy() for name, value in job.inputs.items()})
        return {layer: torch.from_numpy(found[compiled.output(name)].copy()) for layer, name in tensors.items()}


def _trace_trt(job: _Job) -> Values:
    from dgkit.engines.trt_build import ENGINE, build_engine
    from dgkit.engines.trt_library import load_library, on_gpu
    from dgkit.engines.trt_session import Session

    if not on_gpu(job.device):
        raise EngineError(f"TensorRT runs on an NVIDIA GPU; asked for device {job.device}", "use --device cuda")
    library, batch = load_library(), job.inputs[job.network.spec.inputs[0].name].shape[0]
    with _marked(job, job.dtype) as (path, tensors):
        file = path.parent / ENGINE
        build_engine(library, path, file, job.network, job.device, BuildOptions(batch=(batch,) * 3), job.notify)
        session = Session(library, file, job.device, cuda_graph=False, weights=None, kernels=path.parent / "kernels")
        try:
            found = session.run(0, job.inputs)
            return {layer: found[name].float().cpu() for layer, name in tensors.items()}
        finally:
            session.close()


_TRACERS: dict[str, Callable[[_Job], Values]] = {
    "torch": _trace_torch,
    "ort": _trace_ort,
    "openvino": _trace_openvino,
    "trt": _trace_trt,
}


@contextlib.contextmanager
def _marked(job: _Job, dtype: str) -> Iterator[tuple[Path, dict[str, str]]]:
    """The exported graph with the layers as further outputs, in a folder of its own, and the tensor of each layer."""
    onnx: Any = require("onnx", "cpu")
    source = export_engine(job.network, job.rebuild, job.notify, dtype=dtype).file(MODEL)
    model = onnx.load(source, load_external_data=False)
    tensors = _layer_tensors(model.graph, set(job.layers))
    taken = {item.name for item in model.graph.output}
    for name in dict.fromkeys(tensors.values()):
        if name not in taken:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    # In the store, which has room for the weights and can link to them: a runtime takes no symbolic link.
    with tempfile.TemporaryDirectory(prefix=".layers-", dir=EngineStore().root) as folder:
        for path in source.parent.glob(f"{MODEL}.*"):
            try:
                os.link(path, Path(folder) / path.name)
            except OSError:  # a file system without hard links
                shutil.copy(path, Path(folder) / path.name)
        target = Path(folder) / MODEL
        onnx.save(model, target)
        yield target, tensors


def _layer_tensors(graph: Any, layers: set[str]) -> dict[str, str]:
    """For each layer the last tensor of its scope."""
    found: dict[str, str] = {}
    for node in graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "[]")
        if len(node.output) == 1:
            found.update(dict.fromkeys(layers.intersection(ast.literal_eval(scopes)), node.output[0]))
    return found
