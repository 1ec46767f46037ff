"""Networks as ONNX files, kept in the engine store and checked against PyTorch when made.

The key of a file holds the weights, the configuration, the shapes and the versions of all packages that shape a graph.
Batch is dynamic in all networks, height and width in the VAE's, which see whole images; the others see tiles of the
model's own size.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dgkit.engines.base import Network
from dgkit.engines.machine import backend_version, device_facts, package_versions
from dgkit.engines.sidecar import EngineKey
from dgkit.engines.spec import NetworkSpec
from dgkit.engines.store import Engine, EngineStore, Notify, Policy
from dgkit.errors import EngineError
from dgkit.optional import require

OPSET = 18
MODEL = "model.onnx"
TOLERANCE = 1e-3  # relative L2 error against PyTorch in fp32; measured on Stable Diffusion 1.5 shapes: at most 3.5e-5


def export_network(network: Network, rebuild: Policy = "auto", notify: Notify | None = None) -> Path:
    """The ONNX file of ``network`` in fp32, from the store or exported now; ``rebuild`` and ``notify`` as there.

    EngineError where the export fails, differs from PyTorch by more than :data:`TOLERANCE`, or is not there and
    ``rebuild`` is ``never``; MissingDependency names the extra; OutputError where the store cannot be written.
    """
    return export_engine(network, rebuild, notify).file(MODEL)


def export_engine(network: Network, rebuild: Policy = "auto", notify: Notify | None = None) -> Engine:
    """As :func:`export_network`, with the side-car, whose notes hold the error of each output against PyTorch."""
    require("onnx", "cpu"), require("onnxscript", "cpu")

    def build(folder: Path) -> dict[str, dict[str, float]]:
        module = network.load().float().eval()
        with torch.no_grad():
            _export(network, module, folder / MODEL)
            return {"error": _verify(network, module, folder / MODEL)}

    return EngineStore().obtain(graph_key(network), build, rebuild=rebuild, model=network.model, notify=notify)


def graph_key(network: Network) -> EngineKey:
    """Key of the exported graph of ``network``, which runs on any device."""
    free = dynamic_symbols(network.spec)
    symbols = sorted({symbol for item in (*network.spec.inputs, *network.spec.outputs) for symbol in item.shape})
    return EngineKey(
        network=network.spec.name,
        weights=network.digest(),
        dtype="fp32",
        shapes={symbol: "any" if symbol in free else network.sizes[symbol] for symbol in symbols},
        graph={"opset": OPSET},
        backend="onnx",
        backend_version=backend_version("onnx"),
        versions=package_versions(("torch", "diffusers", "transformers", "onnxscript")),
        device=device_facts("any"),
    )


def example_inputs(network: Network, batch: int = 2, seed: int = 0, **sizes: int) -> dict[str, Tensor]:
    """Random inputs by name, of the network's own sizes where ``sizes`` (by symbol) states no other: floats standard
    normal, integers 0 to 99.
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


def _export(network: Network, module: nn.Module, path: Path) -> None:
    spec, inputs = network.spec, example_inputs(network)
    try:
        with quiet_exporter():
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                input_names=[item.name for item in spec.inputs],
                output_names=[item.name for item in spec.outputs],
                dynamic_shapes=_dynamic_shapes(spec),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
            if program is None:
                raise EngineError(f"{spec.name}: the exporter returned nothing")
            program.save(str(path), external_data=True)
    except (RuntimeError, ValueError, TypeError, torch.onnx.errors.OnnxExporterError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EngineError(f"{spec.name} cannot be exported to ONNX: {reason}", "use --engine torch") from error


def dynamic_symbols(spec: NetworkSpec) -> frozenset[str]:
    """Symbols whose size an exported network takes from its input."""
    spatial = {"height", "width", "image_height", "image_width"} if spec.name.startswith("vae_") else set()
    return frozenset({"batch", *spatial})


def _dynamic_shapes(spec: NetworkSpec) -> tuple[dict[int, object], ...]:
    free = dynamic_symbols(spec)
    return tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, symbol in enumerate(item.shape) if symbol in free}
        for item in spec.inputs
    )


def _verify(network: Network, module: nn.Module, path: Path) -> dict[str, float]:
    """Error of each output at another batch, other values and, where it is dynamic, another height than exported."""
    runtime = require("onnxruntime", "cpu")
    changed: dict[str, int] = {}
    if "height" in dynamic_symbols(network.spec):
        changed = {name: network.sizes[name] // 2 for name in ("height", "image_height")}
    inputs = example_inputs(network, batch=3, seed=1, **changed)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    result = module(*inputs.values())
    results = result if isinstance(result, tuple) else (result,)
    errors = {}
    for spec, value, expected in zip(network.spec.outputs, found, results, strict=True):
        error = errors[spec.name] = relative_error(value, expected.numpy())
        if not error <= TOLERANCE:
            raise EngineError(f"{network.spec.name}: {spec.name} of the ONNX file is off by {error:.1e} from PyTorch")
    return errors


def relative_error(value: np.ndarray, expected: np.ndarray) -> float:
    """L2 norm of the difference over that of ``expected``."""
    return float(np.linalg.norm(value - expected) / max(float(np.linalg.norm(expected)), 1e-30))


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """The exporter warns and reports about its own internals, on three channels."""
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
