"""What an engine file contains: layers by kind and number format, shapes, memory, as the libraries' own tools see it.

ONNX graphs are read by Polygraphy, compiled OpenVINO models by OpenVINO. An engine of TensorRT cannot be opened without
its GPU: its layers, profiles and memory are those noted at the build, and its kernels those of
:mod:`dgkit.engines.trt_plan`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dgkit.engines.sidecar import EngineSideCar
from dgkit.errors import DgkitError, EngineError
from dgkit.optional import first_line, openvino_core

Counts = dict[str, dict[str, int]]
"""Number of layers by kind, then by the number format of their first output."""


@dataclass(frozen=True)
class EngineContents:
    """``layers`` of the graph or network definition, ``kernels`` of the compiled engine, ``profiles`` as minimum,
    optimum and maximum shape by input, ``memory`` in MiB, and ``lines``: one per layer or kernel, in their order.
    """

    layers: Counts = field(default_factory=dict)
    kernels: Counts = field(default_factory=dict)
    profiles: list[dict[str, list[list[int]]]] = field(default_factory=list)
    memory: dict[str, float] = field(default_factory=dict)
    lines: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the non-empty fields as plain values for JSON."""
        return {name: value for name, value in asdict(self).items() if value}


def read_contents(folder: Path, sidecar: EngineSideCar) -> EngineContents:
    """Return the contents of a stored engine; empty for a backend whose files cannot be read.

    Raises MissingDependency without the library that reads it, EngineError if its file is damaged.
    """
    reader = _READERS.get(sidecar.key.backend)
    try:
        return reader(folder, sidecar) if reader else EngineContents()
    except DgkitError:
        raise
    except Exception as error:  # each library raises classes of its own
        raise EngineError(
            f"{folder} cannot be read: {first_line(error)}", "build it again with --rebuild always"
        ) from error


def _read_graph(folder: Path, sidecar: EngineSideCar) -> EngineContents:
    from dgkit.engines.onnx_export import MODEL
    from dgkit.engines.trt_library import polygraphy

    graph = polygraphy("backend.onnx").onnx_from_path(str(folder / MODEL), ignore_external_data=True)
    data = polygraphy("tools.inspect.subtool.model.extractors").graph_data_from_onnx(graph)
    nodes = [(node.op_type, _dtype(node.outputs[0].dtype), node.name) for node in data.nodes if node.outputs]
    return EngineContents(layers=_count(nodes), lines=tuple(" ".join(node) for node in nodes))


def _read_openvino(folder: Path, sidecar: EngineSideCar) -> EngineContents:
    from dgkit.engines.openvino_runner import BLOB, precision_hint

    compiled = openvino_core().import_model((folder / BLOB).read_bytes(), "CPU", precision_hint(sidecar.key.dtype))
    found = []
    for operation in compiled.get_runtime_model().get_ordered_ops():
        kind, precision = (str(operation.rt_info[name].value) for name in ("layerType", "runtimePrecision"))
        found.append((kind, _dtype(precision), operation.friendly_name))
    return EngineContents(kernels=_count(found), lines=tuple(" ".join(entry) for entry in found))


def _read_tensorrt(folder: Path, sidecar: EngineSideCar) -> EngineContents:
    from dgkit.engines.trt_build import ENGINE
    from dgkit.engines.trt_plan import read_kernels

    notes: Mapping[str, Any] = sidecar.notes
    kernels = read_kernels(folder / ENGINE) if sidecar.key.backend == "rtx" else ()
    lines = [(kernel.kind, "+".join(dict.fromkeys(kernel.writes)), ", ".join(kernel.nodes)) for kernel in kernels]
    memory = {"activations": notes["activations_mib"]} if "activations_mib" in notes else {}
    return EngineContents(
        layers=notes.get("types", {}),
        kernels=_count(lines),
        profiles=notes.get("profiles", []),
        memory=memory,
        lines=tuple(" ".join(line) for line in lines),
    )


_READERS = {"onnx": _read_graph, "openvino": _read_openvino, "trt": _read_tensorrt, "rtx": _read_tensorrt}
_DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "f32": "fp32", "f16": "fp16"}


def _dtype(kind: Any) -> str:
    name = str(getattr(kind, "name", kind) or "unknown").lower()
    return _DTYPES.get(name, name)


def _count(entries: Iterable[tuple[str, str, str]]) -> Counts:
    found: Counts = {}
    for (kind, dtype), number in sorted(Counter((kind, dtype) for kind, dtype, _ in entries).items()):
        found.setdefault(kind, {})[dtype] = number
    return found
