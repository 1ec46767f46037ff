"""Export of networks as ONNX files, which are kept in the engine store and compared with PyTorch after the export.

The key of a file covers weights, configuration, shapes and the versions of all packages that affect the graph. The
batch axis is always dynamic. Height and width are dynamic in the VAE networks, which process whole images; the other
networks process tiles of the model's own size. Precision is part of the graph, see :mod:`dgkit.engines.typed`. Weights
are in a separate file next to it.
"""

import contextlib
import gc
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dgkit.engines.machine import backend_version, device_facts, package_versions
from dgkit.engines.runner import Network, find_dtype
from dgkit.engines.sidecar import EngineKey
from dgkit.engines.spec import NetworkSpec
from dgkit.engines.store import Engine, EngineStore, Policy
from dgkit.engines.typed import typed_copy, write_fp32_graph
from dgkit.errors import EngineError, UsageError
from dgkit.optional import first_line, require
from dgkit.progress import Notify
from dgkit.resources import peak_memory, usable_cores

OPSET = 18
OPSETS = range(18, 24)  # those that torch's exporter can write
MODEL = "model.onnx"
SCOPES = "pkg.torch.onnx.name_scopes"  # metadata key: the modules that a node belongs to
_FAILURES = (RuntimeError, ValueError, TypeError, torch.onnx.errors.OnnxExporterError)
# Largest allowed relative L2 error against PyTorch in fp32. Measured on Stable Diffusion 1.5 shapes: at most 3.5e-5 in
# fp32; in fp16 and bf16 the error comes from rounding weights and activations to 11 and 8 bits. int8 and
# fp8 are measured on recorded calls: 0.05 with the embedded model in int8.
TOLERANCES = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 5e-2, "int8": 1e-1, "fp8": 1e-1}


def export_network(network: Network, rebuild: Policy = "auto", notify: Notify | None = None) -> Path:
    """Return the path of the ONNX file of ``network`` in fp32; otherwise as :func:`export_engine`."""
    return export_engine(network, rebuild, notify).file(MODEL)


def export_engine(
    network: Network,
    rebuild: Policy = "auto",
    notify: Notify | None = None,
    *,
    dtype: str = "fp32",
    opset: int = OPSET,
) -> Engine:
    """Return the graph of ``network`` in ``dtype``; see :meth:`EngineStore.obtain` for ``rebuild`` and ``notify``.

    Its file is :data:`MODEL`; floating-point inputs and outputs are in ``dtype``. The notes of the side-car hold the
    relative L2 error of each output against PyTorch in fp32, measured with ONNX Runtime on the CPU. For fp32 and fp16
    the graph itself is measured; for bf16 an fp32 copy, because ONNX Runtime lacks bf16 operators for the CPU.

    Raises EngineError if the export fails, its error exceeds :data:`TOLERANCES`, or the graph is missing and
    ``rebuild`` is ``never``; UsageError for an unknown dtype or opset; MissingDependency with the extra to install;
    OutputError if the store cannot be written.
    """
    check_export()

    def build(folder: Path) -> dict[str, Any]:
        module = network.load().float().eval()
        with torch.no_grad():
            inputs = check_inputs(network)
            result = module(*inputs.values())
            expected = result if isinstance(result, tuple) else (result,)
            _export(network, typed_copy(module, find_dtype(dtype)), folder / MODEL, opset)
            gc.collect()  # the exporter leaves reference cycles that hold the copy
            errors = _verify(network, folder / MODEL, dtype, inputs, expected)
        peak = (peak_memory() or 0) / 2**30
        return {"error": errors, "checked": "fp32 copy" if dtype == "bf16" else dtype, "peak_gib": round(peak, 2)}

    key = graph_key(network, dtype, opset)
    return EngineStore().obtain(key, build, rebuild=rebuild, model=network.model, notify=notify)


def check_export() -> None:
    """Raise MissingDependency unless the packages that export a network are installed."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, "cpu")


def graph_key(network: Network, dtype: str = "fp32", opset: int = OPSET) -> EngineKey:
    """Return the key of the graph of ``network``, for any device. Raises UsageError for another dtype or opset."""
    find_dtype(dtype)
    network.check_range(dtype)
    if opset not in OPSETS:
        raise UsageError(f"opset {opset}; allowed: {OPSETS.start} to {OPSETS.stop - 1}", f"use {OPSET}")
    free = dynamic_symbols(network.spec)
    symbols = sorted({symbol for item in (*network.spec.inputs, *network.spec.outputs) for symbol in item.shape})
    return EngineKey(
        network=network.spec.name,
        weights=network.digest(),
        dtype=dtype,
        shapes={symbol: "any" if symbol in free else network.sizes[symbol] for symbol in symbols},
        graph={"opset": opset},
        backend="onnx",
        backend_version=backend_version("onnx"),
        versions=package_versions(("torch", "diffusers", "transformers", "onnxscript")),
        device=device_facts("any"),
    )


def example_inputs(network: Network, batch: int = 2, seed: int = 0, **sizes: int) -> dict[str, Tensor]:
    """Return random inputs by name: floats standard normal, integers 0 to 99.

    ``sizes`` by symbol override the network's own.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = {**network.sizes, "batch": batch, **sizes}
    inputs = {}
    for spec in network.spec.inputs:
        shape = [sizes[symbol] for symbol in spec.shape]
        if spec.dtype == "int64":
            inputs[spec.name] = torch.randint(0, 100, shape, generator=generator)
        else:
            inputs[spec.name] = torch.randn(shape, generator=generator)
    return inputs


def _export(network: Network, module: nn.Module, path: Path, opset: int) -> None:
    onnx: Any = require("onnx", "cpu")
    spec, dtype = network.spec, next(module.parameters()).dtype
    inputs = [value.to(dtype) if value.is_floating_point() else value for value in example_inputs(network).values()]
    try:
        with quiet_exporter():
            program = torch.onnx.export(
                module,
                tuple(inputs),
                input_names=[item.name for item in spec.inputs],
                output_names=[item.name for item in spec.outputs],
                dynamic_shapes=dynamic_shapes(spec),
                opset_version=opset,
                dynamo=True,
                optimize=True,  # folds constants
                verbose=False,
            )
            if program is None:
                raise EngineError(f"{spec.name}: the exporter returned nothing")
            for node in program.model.graph:  # other metadata contains source paths of this machine
                for name in [name for name in node.metadata_props if name != SCOPES]:
                    del node.metadata_props[name]
            program.save(str(path), external_data=True)
        onnx.checker.check_model(str(path))  # by path, because a graph above 2 GB does not fit a protobuf message
    except (*_FAILURES, onnx.checker.ValidationError) as error:
        raise EngineError(
            f"{spec.name} cannot be exported to ONNX: {first_line(error)}", "use --engine torch"
        ) from error


def dynamic_symbols(spec: NetworkSpec) -> frozenset[str]:
    """Return the symbols whose axes are dynamic in the exported network."""
    spatial = {"height", "width", "image_height", "image_width"} if spec.name.startswith("vae_") else set()
    return frozenset({"batch", *spatial})


def dynamic_shapes(spec: NetworkSpec) -> tuple[dict[int, object], ...]:
    """Return the dynamic axes of each input, as ``torch.export`` takes them."""
    free = dynamic_symbols(spec)
    return tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, symbol in enumerate(item.shape) if symbol in free}
        for item in spec.inputs
    )


def check_inputs(network: Network) -> dict[str, Tensor]:
    """Return inputs whose batch, values and, if dynamic, height differ from those of the export."""
    changed: dict[str, int] = {}
    if "height" in dynamic_symbols(network.spec):
        changed = {name: network.sizes[name] // 2 for name in ("height", "image_height")}
    return example_inputs(network, batch=3, seed=1, **changed)


def _verify(
    network: Network, path: Path, dtype: str, inputs: Mapping[str, Tensor], expected: Sequence[Tensor]
) -> dict[str, float]:
    """Return the relative error of each output of the graph; ``expected`` are the outputs of PyTorch in fp32."""
    tolerance = TOLERANCES[dtype]
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        if dtype == "bf16":
            path, dtype = write_fp32_graph(path, Path(folder) / path.name), "fp32"
        try:
            found = run_graph(path, inputs, dtype)
        except Exception as error:  # ONNX Runtime raises its own unrelated classes
            raise EngineError(
                f"{network.spec.name}: ONNX Runtime cannot run the graph: {first_line(error)}", "use --engine torch"
            ) from error
    errors = {}
    for spec, value, wanted in zip(network.spec.outputs, found.values(), expected, strict=True):
        off = errors[spec.name] = relative_error(value, wanted.numpy())
        if not off <= tolerance:
            raise EngineError(
                f"{network.spec.name}: output {spec.name} of the ONNX file differs from PyTorch by {off:.1e} (relative "
                f"L2 error); at most {tolerance:.0e} is allowed",
                "use --engine torch",
            )
    return errors


def run_graph(path: Path, inputs: Mapping[str, Tensor], dtype: str = "fp32") -> dict[str, np.ndarray]:
    """Run the graph at ``path`` in ONNX Runtime on the CPU and return its outputs by name.

    ``dtype``: that of the graph, fp32 or fp16; floating-point inputs are cast to it. Raises what ONNX Runtime raises.
    """
    session = open_graph(path)
    kind = find_dtype(dtype)
    feed = {name: (value.to(kind) if value.is_floating_point() else value).numpy() for name, value in inputs.items()}
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def open_graph(path: Path) -> Any:
    """Return a session of ONNX Runtime on the CPU for a few calls of a graph. Raises what ONNX Runtime raises."""
    runtime: Any = require("onnxruntime", "cpu")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = min(torch.get_num_threads(), len(usable_cores()))
    options.log_severity_level = 3
    # The session runs a few times, so copies of the weights in other layouts and types do not pay off. Without them the
    # denoiser of Stable Diffusion 1.5 in fp16 takes 7 instead of 11 GiB.
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def relative_error(value: np.ndarray, expected: np.ndarray) -> float:
    """Return the L2 norm of the difference over that of ``expected``."""
    value, expected = value.astype(np.float64), expected.astype(np.float64)
    return float(np.linalg.norm(value - expected) / max(float(np.linalg.norm(expected)), 1e-30))


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence the exporter's reports about its own internals: warnings, standard output and log lines."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels: Mapping[logging.Logger, int] = {logger: logger.level for logger in loggers}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in levels.items():
                logger.setLevel(level)
