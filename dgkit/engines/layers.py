"""Layer by layer comparison of two engines, in the order of computation, to find where they start to differ.

A layer is a module without submodules that is called once. In PyTorch a hook receives its output. In an exported graph
its output is the last tensor whose node lies in the scope of that module, which the exporter records. Polygraphy marks
these tensors as additional outputs. This compares any engine that takes ONNX graphs, in the precision of its graph. It
cannot show errors of fusions across layers, because the additional outputs prevent them.
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

from dgkit.engines.compare import Comparison, EngineSpec, OutputCheck, allowed_error, compare_outputs
from dgkit.engines.modules import cast
from dgkit.engines.onnx_export import MODEL, SCOPES, export_engine, run_graph
from dgkit.engines.runner import DTYPES, QUANTISED, BuildOptions, Network, find_device, find_dtype
from dgkit.engines.store import EngineStore, Policy
from dgkit.engines.trt_library import polygraphy
from dgkit.errors import EngineError, UsageError
from dgkit.optional import openvino_core, require
from dgkit.progress import Notify

Values = dict[str, Tensor]
"""Outputs by module path, float32 on the CPU."""


@dataclass(frozen=True)
class LayerReport:
    """The compared layers in the order of computation; ``output`` of a check is the path of a module."""

    network: str
    checks: tuple[OutputCheck, ...]

    @property
    def first(self) -> OutputCheck | None:
        """The first layer above the tolerance or with a value that is not finite; None if every layer passed."""
        return next((check for check in self.checks if not check.passed), None)

    @property
    def worst(self) -> OutputCheck:
        """The layer with the largest error; values that are not finite count as the largest."""
        return max(self.checks, key=lambda check: float("inf") if check.not_finite else check.relative)


@dataclass(frozen=True)
class _TraceJob:
    """A network to run in ``dtype``, and the paths of the layers whose outputs are wanted."""

    network: Network
    dtype: str
    device: torch.device
    inputs: Mapping[str, Tensor]
    layers: Sequence[str]
    rebuild: Policy
    notify: Notify | None


def check_layers(comparison: Comparison) -> LayerReport:
    """Compare the layers of a network on two engines, with random inputs.

    Raises UsageError for an engine or a dtype whose layers are not accessible; EngineError if an engine cannot run here
    or the two have no layer in common.
    """
    first, second = comparison.first, comparison.second
    for side in (first, second):
        if side.engine not in _TRACERS:
            raise UsageError(
                f"engine {side.engine!r} gives no access to its layers; engines that do: {', '.join(_TRACERS)}",
                "leave out --worst-layer",
            )
        if side.dtype in QUANTISED:
            raise UsageError(
                f"{side} gives no access to its layers; dtypes that do: {', '.join(DTYPES)}", "leave out --worst-layer"
            )
    network = comparison.load()
    inputs = comparison.inputs(network)
    layers = list(_run_hooked(network.load().float().eval(), list(inputs.values()), keep=False))

    def trace(side: EngineSpec) -> Values:
        device = find_device(comparison.device)
        job = _TraceJob(comparison.load(), side.dtype, device, inputs, layers, comparison.rebuild, comparison.notify)
        return _TRACERS[side.engine](job)

    expected, found = trace(first), trace(second)
    both = [name for name in layers if name in expected and name in found and expected[name].shape == found[name].shape]
    if not both:
        raise EngineError(
            f"{network.spec.name}: {first} and {second} have no layer in common to compare", "leave out --worst-layer"
        )
    wanted = {name: expected[name] for name in both}
    checks = compare_outputs(network.spec.name, (str(first), str(second)), wanted, found, allowed_error(first, second))
    return LayerReport(network.spec.name, tuple(checks))


def _run_hooked(module: nn.Module, arguments: Sequence[Tensor], *, keep: bool = True) -> Values:
    """Run ``module`` and return the outputs of its layers; with ``keep`` False only their paths, with empty tensors."""
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


def _trace_torch(job: _TraceJob) -> Values:
    kind = find_dtype(job.dtype)
    module = cast(job.network.load(), job.device, kind)
    placed = [v.to(job.device, kind if v.is_floating_point() else None) for v in job.inputs.values()]
    return _run_hooked(module, placed)


def _trace_ort(job: _TraceJob) -> Values:
    if job.dtype == "bf16":
        raise UsageError("ONNX Runtime does not support bf16 on the CPU", "use ort:fp32 or ort:fp16")
    with _marked(job, job.dtype) as (path, tensors):
        found = run_graph(path, job.inputs, job.dtype)
        return {layer: torch.from_numpy(found[name]).float() for layer, name in tensors.items()}


def _trace_openvino(job: _TraceJob) -> Values:
    if job.dtype == "fp16":
        raise UsageError("OpenVINO does not support fp16 on the CPU", "use openvino:fp32 or openvino:bf16")
    hint = {"INFERENCE_PRECISION_HINT": "bf16" if job.dtype == "bf16" else "f32"}
    with _marked(job, "fp32") as (path, tensors):
        compiled = openvino_core().compile_model(str(path), "CPU", hint)
        found = compiled({name: value.numpy() for name, value in job.inputs.items()})
        return {layer: torch.from_numpy(found[compiled.output(name)].copy()) for layer, name in tensors.items()}


def _trace_trt(job: _TraceJob) -> Values:
    from dgkit.engines.trt_build import ENGINE, build_engine
    from dgkit.engines.trt_library import load_library, on_gpu
    from dgkit.engines.trt_session import Session

    if not on_gpu(job.device):
        raise EngineError(f"TensorRT needs an NVIDIA GPU; the device is {job.device}", "use --device cuda")
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


_TRACERS: dict[str, Callable[[_TraceJob], Values]] = {
    "torch": _trace_torch,
    "ort": _trace_ort,
    "openvino": _trace_openvino,
    "trt": _trace_trt,
}


@contextlib.contextmanager
def _marked(job: _TraceJob, dtype: str) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield the path of the exported graph with the layers as additional outputs, and the tensor name of each layer."""
    onnx: Any = require("onnx", "cpu")
    loaders = polygraphy("backend.onnx")
    source = export_engine(job.network, job.rebuild, job.notify, dtype=dtype).file(MODEL)
    model = loaders.onnx_from_path(str(source), ignore_external_data=True)
    tensors = _layer_tensors(model.graph, set(job.layers))
    outputs = [item.name for item in model.graph.output]
    model = loaders.modify_outputs(model, [*outputs, *(set(tensors.values()) - set(outputs))])
    # Inside the store, so that the weights can be hard links: runtimes refuse symbolic links.
    with tempfile.TemporaryDirectory(prefix=".layers-", dir=EngineStore().root) as folder:
        for path in source.parent.glob(f"{MODEL}.*"):
            try:
                os.link(path, Path(folder) / path.name)
            except OSError:  # the file system has no hard links
                shutil.copy(path, Path(folder) / path.name)
        target = Path(folder) / MODEL
        onnx.save(model, target)
        yield target, tensors


def _layer_tensors(graph: Any, layers: set[str]) -> dict[str, str]:
    """Return the name of the last tensor in the scope of each layer."""
    found: dict[str, str] = {}
    for node in graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "[]")
        if len(node.output) == 1:
            found.update(dict.fromkeys(layers.intersection(ast.literal_eval(scopes)), node.output[0]))
    return found
