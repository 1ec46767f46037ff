"""ONNX files as segmenters: any network of one image, run as it is by ONNX Runtime or OpenVINO."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dgkit.config import load_config
from dgkit.engines.runner import find_device
from dgkit.errors import EngineError, InputError, UsageError
from dgkit.files import digest_file
from dgkit.labels import CLASSES
from dgkit.optional import first_line, openvino_core, require
from dgkit.segmenters.base import Segmenter, train_ids
from dgkit.segmenters.onnx_model import SideCar

ENGINES = ("ort", "openvino")
_STEP = 32  # sides are multiples of it where the side-car does not say otherwise
Shape = list[int | None]
Run = Callable[[np.ndarray], dict[str, np.ndarray]]


class OnnxSegmenter(Segmenter):
    """One input image [N,3,H,W]; an output of logits [N,C,h,w] (any stride) or class numbers [N,H,W] or [N,1,H,W].

    Class numbers count as one vote each where windows overlap. Pictures are padded by their border to the sizes that
    the network takes. See :class:`~dgkit.segmenters.onnx_model.SideCar` for the YAML file beside it.
    """

    def __init__(self, path: Path, engine: str = "ort", dtype: str = "fp32", device: str = "auto") -> None:
        """Raises InputError for a missing file or a bad side-car, EngineError for a file that does not open,
        UsageError for another engine or dtype, MissingDependency.
        """
        if not path.is_file():
            raise InputError(f"{path}: no such file", "dgkit train judge DIR writes DIR/segmenter.onnx")
        if engine not in ENGINES or dtype != "fp32":
            raise UsageError(
                f"an ONNX file on engine {engine!r} in {dtype}; allowed are {' and '.join(ENGINES)}, in fp32",
                "leave --engine and --dtype out: the precision is part of the file",
            )
        beside = path.with_suffix(".yaml")
        self.sidecar = load_config(SideCar, beside if beside.exists() else None)
        self._names = self.sidecar.classes or CLASSES
        self._keep, classes = train_ids(self._names, beside)
        self.engine, self.digest = engine, digest_file(path)
        self._run_file, shape, where = (_open_ort if engine == "ort" else _open_openvino)(path, device)
        if len(shape) != 4 or shape[1] not in (3, None):
            raise InputError(f"{path} takes {shape}; allowed is one image [N,3,H,W]", "export it with an image input")
        self._fixed = shape
        super().__init__(path, "ONNX", classes, self.sidecar.mean, self.sidecar.std, where)

    def facts(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "kind": self.kind,
            "sha256": self.digest,
            "sidecar": self.sidecar.model_dump(mode="json"),
            "engine": self.engine,
            "dtype": "as in the file",
            "device": str(self.device),
        }

    def _run(self, values: Tensor) -> Tensor:
        height, width = values.shape[-2:]
        padding = [self._side(size, fixed) - size for size, fixed in ((height, 2), (width, 3))]
        if any(padding):
            values = functional.pad(values, (0, padding[1], 0, padding[0]), mode="replicate")
        logits = self._logits(values.cpu().numpy()).to(self.device)
        if logits.shape[-2:] != values.shape[-2:]:
            logits = functional.interpolate(logits, size=values.shape[-2:], mode="bilinear", align_corners=False)
        return logits[..., :height, :width]

    def _side(self, size: int, axis: int) -> int:
        fixed = self._fixed[axis]
        if fixed is None:
            step = self.sidecar.multiple_of or _STEP
            return -(-size // step) * step
        if size > fixed:
            raise UsageError(
                f"{self.path} takes pictures of {self._fixed[3]}x{self._fixed[2]}, the protocol gives larger ones",
                f"use --set crop={min(s for s in self._fixed[2:] if s)}",
            )
        return fixed

    def _logits(self, values: np.ndarray) -> Tensor:
        """float32 [N,K,h,w], in calls of the batch that the file is fixed to, if it is."""
        count, fixed = len(values), self._fixed[0] or len(values)
        parts = []
        for start in range(0, count, fixed):
            part = values[start : start + fixed]
            filled = np.concatenate([part, np.repeat(part[-1:], fixed - len(part), 0)]) if len(part) < fixed else part
            try:
                outputs = self._run_file(np.ascontiguousarray(filled))
            except Exception as error:  # both libraries raise their own unrelated classes
                hint = f"state 'multiple_of' in {self.path.with_suffix('.yaml')}"
                raise EngineError(f"{self.path} with {list(values.shape)}: {first_line(error)}", hint) from error
            parts.append(self._votes(self._map(outputs)[: len(part)]))
        return torch.cat(parts)

    def _map(self, outputs: dict[str, np.ndarray]) -> np.ndarray:
        found = [v for name, v in outputs.items() if v.ndim >= 3 and name != self.sidecar.features]
        if not found:
            raise InputError(f"{self.path} has no output that is a map of logits or labels", "give a segmenter")
        first = found[0]
        return first[:, 0] if first.ndim == 4 and first.shape[1] == 1 else first

    def _votes(self, found: np.ndarray) -> Tensor:
        """Logits of the 19 classes as they are; class numbers as 1 for the class and 0 for the others."""
        hint = f"list the names under 'classes' in {self.path.with_suffix('.yaml')}"
        if found.ndim == 4:
            if found.shape[1] != len(self._names):
                raise InputError(f"{self.path} gives {found.shape[1]} classes, {len(self._names)} are named", hint)
            logits = torch.from_numpy(found).float()
            return logits if len(self._keep) == len(self._names) else logits[:, self._keep]
        numbers = torch.from_numpy(found.astype(np.int64))
        votes = (numbers[:, None] == torch.tensor(self._keep).view(1, -1, 1, 1)).float()
        if not bool(votes.any(1).all()):
            wrong = [number for number in np.unique(found).tolist() if number not in self._keep][:5]
            raise InputError(f"{self.path} gave the class numbers {wrong}, none of the 19 classes", hint)
        return votes


def _open_ort(path: Path, device: str) -> tuple[Run, Shape, str]:
    runtime = require("onnxruntime", "cpu")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    on_gpu = "CUDAExecutionProvider" in runtime.get_available_providers() and torch.cuda.is_available()
    where = find_device("cuda" if on_gpu else "cpu") if device == "auto" else find_device(device)
    if where.type == "cuda" and not on_gpu:
        raise UsageError("the installed onnxruntime has no CUDA provider", "use --device cpu, or see dgkit doctor")
    providers: list[Any] = ["CPUExecutionProvider"]
    if where.type == "cuda":
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": where.index or 0, "use_tf32": 0}))
    try:
        session = runtime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime raises its own unrelated classes
        raise EngineError(f"{path} cannot be opened: {first_line(error)}", "export it again") from error
    inputs = session.get_inputs()
    _check_one(path, len(inputs))
    kind = np.float16 if "float16" in inputs[0].type else np.float32
    names = [output.name for output in session.get_outputs()]

    def run(values: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(None, {inputs[0].name: values.astype(kind, copy=False)}), strict=True))

    return run, [size if isinstance(size, int) else None for size in inputs[0].shape], str(where)


def _open_openvino(path: Path, device: str) -> tuple[Run, Shape, str]:
    if device not in ("auto", "cpu"):
        raise UsageError(f"engine 'openvino' runs on the CPU; asked for {device}", "use --device cpu")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads(), "NUM_STREAMS": 1}
    try:
        core = openvino_core()
        compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
        request = compiled.create_infer_request()
    except RuntimeError as error:
        raise EngineError(f"{path} cannot be opened: {first_line(error)}", "use --engine ort") from error
    _check_one(path, len(compiled.inputs))
    kind = np.float16 if "16" in compiled.input(0).get_element_type().get_type_name() else np.float32
    names = [output.get_any_name() for output in compiled.outputs]

    def run(values: np.ndarray) -> dict[str, np.ndarray]:
        request.infer({0: values.astype(kind, copy=False)}, share_inputs=True)
        return {name: request.get_output_tensor(index).data.copy() for index, name in enumerate(names)}

    shape = compiled.input(0).get_partial_shape()
    return run, [size.get_length() if size.is_static else None for size in shape], "cpu"


def _check_one(path: Path, inputs: int) -> None:
    if inputs != 1:
        raise InputError(f"{path} takes {inputs} inputs; allowed is one image [N,3,H,W]", "export it with one input")
