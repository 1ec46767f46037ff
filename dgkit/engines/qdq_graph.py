"""Graphs for TensorRT with explicit quantisation to int8 or fp8, by NVIDIA ModelOpt from the graph in fp16.

Quantise and dequantise operators around the products say where the engine computes in 8 bits; everything else keeps
the types of the fp16 graph. Source: ModelOpt, "ONNX Quantization". fp8 (e4m3) needs compute capability 8.9 or newer.
"""

import contextlib
import io
import re
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dgkit.engines.held_out_calls import record_calls, verify_calls
from dgkit.engines.machine import package_versions
from dgkit.engines.onnx_export import MODEL, check_export, export_engine, graph_key, open_graph
from dgkit.engines.runner import QUANTISED, Call, Network
from dgkit.engines.sidecar import EngineKey
from dgkit.engines.store import Engine, EngineStore, Policy
from dgkit.errors import EngineError
from dgkit.optional import first_line, require
from dgkit.progress import Notify

EXTRA = "modelopt"
BASE = "fp16"  # number format of everything that is not quantised
PRODUCTS = ("Conv", "MatMul")  # products with one vector per sample, which encodes the timestep, are Gemm
_OPSET = 21  # the first one in which all operators that move values accept fp8
_NARROW = 16  # channels
_PROTOBUF = 1 << 30  # bytes of weights from which they are kept in a file of their own


def typed_graph_key(network: Network, dtype: str) -> EngineKey:
    """Return the key of the graph of ``network`` in ``dtype``, 8 bits included.

    That of a quantised graph also holds the calibration settings and the version of ModelOpt.
    """
    if dtype not in QUANTISED:
        return graph_key(network, dtype)
    graph = graph_key(network, BASE)
    facts = network.calibration.facts() if network.calibration else {}
    return graph.model_copy(
        update={
            "dtype": dtype,
            "versions": {**graph.versions, **package_versions(("nvidia-modelopt", "onnxruntime"))},
            "flags": {"quantised": " ".join(PRODUCTS), "rest": BASE, **facts},
        }
    )


def typed_graph(network: Network, dtype: str, rebuild: Policy = "auto", notify: Notify | None = None) -> Engine:
    """Return the graph of ``network`` in ``dtype``, 8 bits included; otherwise as :func:`export_engine`.

    A quantised graph is kept only if its error on held-out calls, in ONNX Runtime on the CPU, is within the tolerance.
    """
    if dtype not in QUANTISED:
        return export_engine(network, rebuild, notify, dtype=dtype)
    check_quantiser()

    def build(folder: Path) -> dict[str, Any]:
        source = export_engine(network, "auto", notify, dtype=BASE)
        calls, held_out = record_calls(network, dtype, notify)
        quantise(source.folder, folder / MODEL, calls, dtype)
        session = open_graph(folder / MODEL)
        kinds = {item.name: np.float16 if "16" in item.type else np.float32 for item in session.get_inputs()}
        names = [item.name for item in session.get_outputs()]

        def run(call: Call) -> dict[str, np.ndarray]:
            feed = {spec.name: _as(call[spec.name], kinds[spec.name]) for spec in network.spec.inputs}
            return dict(zip(names, session.run(names, feed), strict=True))

        notes = verify_calls(network, dtype, held_out, run, folder)
        return {"graph": source.name, "products": count_products(folder / MODEL), **notes}

    key = typed_graph_key(network, dtype)
    return EngineStore().obtain(key, build, rebuild=rebuild, model=network.model, notify=notify)


def check_quantiser() -> None:
    """Raise MissingDependency unless ModelOpt and the packages of the export are installed."""
    check_export()
    load_modelopt()


def load_modelopt() -> Any:
    """Import the quantiser of ModelOpt for ONNX graphs. Raises MissingDependency with the extra to install.

    TensorRT is hidden from it: it would only supply plugins, which need a GPU, and our graphs have none.
    """
    with _hidden("tensorrt"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        require("modelopt", EXTRA)
        for module in ("onnx_graphsurgeon", "onnxslim", "onnxconverter_common"):
            require(module, EXTRA)
        return require("modelopt.onnx.quantization", EXTRA)


def quantise(source: Path, target: Path, calls: Sequence[Call], dtype: str) -> None:
    """Write the fp16 graph in the folder ``source`` to ``target`` with its products quantised to ``dtype``.

    Activation ranges are the maxima over ``calls``. Convolutions from or to latents, and products with the timestep,
    are cheap but sensitive and stay as they are. Raises EngineError if ModelOpt fails.
    """
    library = load_modelopt()
    data = {name: np.concatenate([_as(call[name], np.float16) for call in calls]) for name in calls[0]}
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        copy = Path(folder) / MODEL
        for path in source.glob(f"{MODEL}*"):
            shutil.copyfile(path, copy.with_name(path.name))
        size = sum(path.stat().st_size for path in copy.parent.iterdir())
        _end_names(copy)
        try:
            with _quiet():
                library.quantize(
                    str(copy),
                    quantize_mode=dtype,
                    calibration_data=data,
                    calibration_method="max",
                    calibration_eps=["cpu"],
                    op_types_to_quantize=list(PRODUCTS),
                    nodes_to_exclude=narrow_convolutions(copy),
                    disable_mha_qdq=True,  # products inside attention, which builders fuse in fp16
                    high_precision_dtype="fp32",  # leaves the types of the graph alone
                    opset=_OPSET,
                    use_external_data_format=size > _PROTOBUF,
                    output_path=str(target),
                    log_level="ERROR",
                )
        except Exception as error:  # ModelOpt and ONNX Runtime raise a dozen unrelated classes
            message = f"ModelOpt cannot quantise the graph to {dtype}: {first_line(error)}"
            raise EngineError(message, "use --dtype fp16") from error


def narrow_convolutions(path: Path) -> list[str]:
    """Return the convolutions of a graph with few input or output channels, as patterns of exactly their names."""
    graph = _load(path).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    found = [node for node in graph.node if node.op_type == "Conv" and node.input[1] in shapes]
    return [f"^{re.escape(node.name)}$" for node in found if min(shapes[node.input[1]][:2]) < _NARROW]


def _end_names(path: Path) -> None:
    """End the name of every node of a graph with a slash.

    ModelOpt takes the names of nodes that it leaves out as the beginnings of names, so that one of them,
    ``node_matmul_1``, would also leave out ``node_matmul_12``.
    """
    model = _load(path)
    for node in model.graph.node:
        node.name += "/"
    onnx: Any = require("onnx", "cpu")
    onnx.save(model, str(path))


def count_products(path: Path) -> dict[str, int]:
    """Return how many products of a graph have dequantised inputs (``quantised``), and how many do not (``other``)."""
    graph = _load(path).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    products = [node for node in graph.node if node.op_type in (*PRODUCTS, "Gemm")]
    found = Counter(all(makers.get(name) == "DequantizeLinear" for name in node.input[:2]) for node in products)
    return {"quantised": found[True], "other": found[False]}


def _load(path: Path) -> Any:
    onnx: Any = require("onnx", "cpu")
    return onnx.load(str(path), load_external_data=False)


def _as(value: np.ndarray, kind: Any) -> np.ndarray:
    """Return floating-point values as ``kind``, and integers as they are."""
    return np.ascontiguousarray(value.astype(kind) if value.dtype.kind == "f" else value)


@contextlib.contextmanager
def _hidden(module: str) -> Iterator[None]:
    """Make ``import module`` fail inside the block."""
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == module}
    hidden: Any = sys.modules
    hidden[module] = None
    try:
        yield
    finally:
        del sys.modules[module]
        sys.modules.update(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what ModelOpt, and the quantiser of ONNX Runtime that it calls, print and warn about."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
