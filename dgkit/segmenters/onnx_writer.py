"""Write a segmenter as one ONNX file with its YAML side-car, compared with PyTorch in ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from dgkit.engines.onnx_export import OPSET, TOLERANCES, quiet_exporter, relative_error
from dgkit.errors import EngineError
from dgkit.files import atomic_path, atomic_write
from dgkit.optional import first_line, require
from dgkit.segmenters.base import LOGITS
from dgkit.taxonomies import Taxonomy

MULTIPLE = 32  # of height and width in pixels, where they are free
_FAILURES = (RuntimeError, ValueError, TypeError, torch.onnx.errors.OnnxExporterError)


def write_segmenter(
    module: nn.Module,
    path: Path,
    *,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    side: int,
    fixed: bool = False,
    taxonomy: Taxonomy | None = None,
    multiple: int = MULTIPLE,
    values: str = LOGITS,
) -> float:
    """Write ``path`` and its side-car ``path.with_suffix(".yaml")``; return the relative L2 error of the logits.

    ``module`` maps float32 [N,3,H,W], RGB, (value / 255 - ``mean``) / ``std``, to logits [N,C,h,w] of any stride;
    ``classes`` names the C channels, of ``taxonomy`` if it is known; ``values`` is stated unless they are logits. The
    batch is free, and so are height and width
    (multiples of ``multiple``) unless ``fixed`` binds them to ``side``, the size of the example image of the
    export. Raises MissingDependency
    without onnx; EngineError, writing nothing, if the export fails, differs from ``module`` or has another number of
    classes; OutputError.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, "cpu")
    module = module.cpu().float().eval()
    example = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    free = (0,) if fixed else (0, 2, 3)
    try:
        with atomic_path(path) as temporary, torch.no_grad(), quiet_exporter():
            torch.onnx.export(
                module,
                (example,),
                str(temporary),
                input_names=["image"],
                output_names=["logits"],
                dynamic_shapes=(dict.fromkeys(free, torch.export.Dim.DYNAMIC),),
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
            error = _verify(module, temporary, path.name, example, len(classes), fixed)
    except _FAILURES as failure:
        raise EngineError(
            f"{path.name} cannot be exported to ONNX: {first_line(failure)}",
            "evaluate the checkpoint with --engine torch" if fixed else "fix the input size with --size 512",
        ) from failure
    sidecar = {
        "layout": "NCHW, RGB, (value / 255 - mean) / std",
        "mean": [_rounded(value) for value in mean],
        "std": [_rounded(value) for value in std],
        "classes": list(classes),
        **({} if taxonomy is None or taxonomy.is_default else {"taxonomy": taxonomy.document()}),
        "multiple_of": None if fixed else multiple,
        **({} if values == LOGITS else {"values": values}),
    }
    atomic_write(path.with_suffix(".yaml"), yaml.safe_dump(sidecar, sort_keys=False, width=110).encode())
    return error


def _rounded(value: float) -> float:
    """Return a value with six decimals, or as many digits if it is small."""
    return round(value, 6) if value >= 0.1 else float(f"{value:.6g}")


def _verify(module: nn.Module, path: Path, name: str, example: Tensor, classes: int, fixed: bool) -> float:
    """Return the relative error at another batch size than the export's and, if it is free, another image size."""
    runtime = require("onnxruntime", "cpu")
    image = example[:1] if fixed else example[:1].repeat(1, 1, 1, 2)
    expected = module(image).numpy()
    if expected.ndim != 4 or expected.shape[1] != classes:
        raise EngineError(
            f"{name}: the network returns {list(expected.shape)}, but {classes} classes are named",
            "logits must be [N,C,h,w] with one name per class",
        )
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    error = relative_error(session.run(None, {"image": image.numpy()})[0], expected)
    if not error <= TOLERANCES["fp32"]:
        raise EngineError(
            f"{name}: logits of the ONNX file differ from PyTorch by {error:.1e}", "evaluate with --engine torch"
        )
    return error
