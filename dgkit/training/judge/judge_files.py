"""The judge's networks as ONNX files, each with a side-car YAML that describes its input."""

from pathlib import Path

import torch
import yaml
from torch import nn

from dgkit.engines.onnx_export import quiet_exporter
from dgkit.errors import EngineError
from dgkit.files import atomic_path, atomic_write
from dgkit.labels import CLASSES
from dgkit.optional import first_line, require
from dgkit.taxonomies import Taxonomy
from dgkit.training.judge.judge_networks import STYLE_SIZE, normalization

OPSET = 18
TOLERANCE = 1e-3  # maximum difference of logits, which range over about 10, between ONNX Runtime and PyTorch


def export(
    module: nn.Module,
    path: Path,
    outputs: tuple[str, ...],
    classes: tuple[str, ...] = CLASSES,
    size: int | None = None,
    taxonomy: Taxonomy | None = None,
) -> None:
    """Write ``path`` and ``path.with_suffix(".yaml")`` and compare the file with ``module`` (in eval mode).

    ``module.norm`` is its normalization. With ``size`` height and width are dynamic and traced at ``size``; without it
    the network takes squares of :data:`STYLE_SIZE`. ``taxonomy`` is stated if it is not the default. Raises
    MissingDependency without onnx, EngineError if the export fails or its results differ.
    """
    require("onnx", "cpu")
    require("onnxscript", "cpu")
    example = torch.randn(2, 3, size or STYLE_SIZE, size or STYLE_SIZE, generator=torch.Generator().manual_seed(0))
    dynamic = {0: "batch", 2: "height", 3: "width"} if size else {0: "batch"}
    try:
        with atomic_path(path) as temporary, quiet_exporter():
            torch.onnx.export(
                module,
                (example,),
                str(temporary),
                input_names=["image"],
                output_names=list(outputs),
                dynamic_axes={"image": dynamic, **{name: {0: "batch"} for name in outputs}},
                opset_version=OPSET,
                dynamo=False,
            )
    except (RuntimeError, ValueError, TypeError) as error:
        raise EngineError(f"{path.name} cannot be exported to ONNX: {first_line(error)}", "update torch") from error
    _verify(module, path, example)
    norm = normalization(module)
    sidecar: dict[str, object] = {
        "layout": "NCHW, RGB, (value / 255 - mean) / std",
        "mean": list(norm.mean),
        "std": list(norm.std),
        "classes": list(classes),
        "multiple_of": norm.multiple_of,
        "size": None if size else STYLE_SIZE,
        "features": "features" if "features" in outputs else None,
    }
    if taxonomy is not None and not taxonomy.is_default:
        sidecar["taxonomy"] = taxonomy.document()
    atomic_write(path.with_suffix(".yaml"), yaml.safe_dump(sidecar, sort_keys=False, width=110).encode())


@torch.no_grad()
def _verify(module: nn.Module, path: Path, example: torch.Tensor) -> None:
    """Compare the file with PyTorch at another batch size than the traced one."""
    runtime = require("onnxruntime", "cpu")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {"image": example[:1].numpy()})[0]
    error = float((torch.from_numpy(found) - _first(module(example[:1]))).abs().max())
    if not error <= TOLERANCE:
        raise EngineError(
            f"{path.name} differs from PyTorch by {error:.1e}; allowed is {TOLERANCE:.1e}",
            "update torch and onnxruntime",
        )


def _first(result: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return result[0] if isinstance(result, tuple) else result
