"""A trained segmenter as an ONNX file, with the side-car YAML that says how to feed it."""

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from dgkit.engines.export import quiet_exporter, relative_error
from dgkit.errors import EngineError, ModelError
from dgkit.files import atomic_path, atomic_write
from dgkit.labels import CLASSES
from dgkit.optional import first_line, require
from dgkit.training.segmenter.hrda import HRDASegmentor
from dgkit.training.segmenter.networks import MEAN, STD

OPSET = 18
TOLERANCE = 1e-3  # relative L2 error of the logits against PyTorch


class Logits(nn.Module):
    """Images float32 [N,3,H,W], RGB, (value / 255 - mean) / std -> logits [N,19,H/stride,W/stride]."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network._forward(image)


def export_segmenter(network: Any, path: Path, crop: int) -> float:
    """Write ``path`` and ``path.with_suffix(".yaml")``, and compare the file with ``network`` in eval mode.

    Height and width are free (multiples of 32); HRDA slides its detail crop over the image, so its size is fixed to
    ``crop``, the training crop. Returns the relative L2 error of the logits. Raises MissingDependency without onnx,
    EngineError if the export fails or computes something else.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, "cpu")
    fixed = isinstance(network, HRDASegmentor)
    module = Logits(network).cpu().eval()
    example = torch.randn(2, 3, crop, crop, generator=torch.Generator().manual_seed(0))
    free = (0,) if fixed else (0, 2, 3)
    try:
        with atomic_path(path) as temporary, torch.no_grad(), quiet_exporter():
            torch.onnx.export(
                module,
                (example,),
                str(temporary),
                input_names=["image"],
                output_names=["logits"],
                dynamic_shapes=({axis: torch.export.Dim.DYNAMIC for axis in free},),
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
            error = _verify(module, temporary, example, fixed)
    except (RuntimeError, ValueError, TypeError, torch.onnx.errors.OnnxExporterError) as failure:
        raise EngineError(f"{path.name} cannot be exported to ONNX: {first_line(failure)}", "update torch") from failure
    sidecar = {
        "layout": "NCHW, RGB, (value / 255 - mean) / std",
        "mean": [round(value / 255, 6) for value in MEAN],
        "std": [round(value / 255, 6) for value in STD],
        "classes": list(CLASSES),
        "multiple_of": None if fixed else 32,
    }
    atomic_write(path.with_suffix(".yaml"), yaml.safe_dump(sidecar, sort_keys=False, width=110).encode())
    return error


def load_checkpoint(network: nn.Module, path: Path) -> None:
    """Copy the weights of a checkpoint of ``dgkit train segmenter`` (tensors only are read). Raises ModelError."""
    # What mmengine puts beside the weights: its own log buffers, numpy scalars.
    known = require("mmengine.runner.checkpoint", "seg").get_torch_safe_globals()
    try:
        with torch.serialization.safe_globals(known):
            state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        network.load_state_dict(state)
    except Exception as error:  # pickle, zip, key and shape errors: all mean the same to a user
        raise ModelError(f"{path} is no checkpoint of this network: {first_line(error)}", "choose another") from error


@torch.no_grad()
def _verify(module: nn.Module, path: Path, example: Tensor, fixed: bool) -> float:
    """Relative error at another batch and, where it is free, another size than those of the export."""
    runtime = require("onnxruntime", "cpu")
    image = example[:1] if fixed else example[:1].repeat(1, 1, 1, 2)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {"image": image.numpy()})[0]
    error = relative_error(found, module(image).numpy())
    if not error <= TOLERANCE:
        raise EngineError(f"{path.name}: the ONNX file is off by {error:.1e} from PyTorch", "report this")
    return error
