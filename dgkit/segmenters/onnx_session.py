"""Open an ONNX file of one image input in ONNX Runtime or OpenVINO and run it on arrays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dgkit.engines.runner import find_device
from dgkit.errors import EngineError, InputError, UsageError
from dgkit.optional import first_line, openvino_core, require
from dgkit.segmenters.onnx_digest import digest_onnx
from dgkit.segmenters.onnx_output import OnnxOutput
from dgkit.segmenters.segmenter_sidecar import sidecar_path

SEGMENTER_HINT = "dgkit train segmenter writes a segmenter.onnx; dgkit export segmenter converts a checkpoint to one"
MAX_SIDE = 1 << 15  # pixels of a fixed input; also the largest fixed batch
ONNX_ENGINES = ("ort", "openvino")
INPUTS = ("float32", "float16", "float64")
_OF_ORT = {"float": "float32", "double": "float64"}  # other types have the names of NumPy
_OF_OPENVINO = {"boolean": "bool", "f": "float", "bf": "bfloat", "i": "int", "u": "uint"}


@dataclass(frozen=True)
class OnnxSession:
    """An open ONNX file of one image input, in single, half or double precision, of any or of a fixed batch size."""

    path: Path
    digest: str
    """SHA-256 of the file and of its external data."""
    shape: tuple[int | None, ...]
    """Input shape [N,3,H,W]; None where a size is free."""
    outputs: tuple[OnnxOutput, ...]
    device: str
    """Device that the file runs on, as PyTorch names it."""
    _call: Callable[[np.ndarray, Sequence[str]], list[np.ndarray]]
    _dtype: np.dtype[Any]

    def run(self, images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        """Return the named ``outputs`` for ``images``, float32 [N,3,H,W].

        N is at most the batch size that the file fixes, if any. Smaller batches are filled up with copies of the last
        image, so outputs may have more than N rows. Raises EngineError if the network does not run.
        """
        missing = (self.shape[0] or 0) - len(images)
        if missing > 0:
            images = np.concatenate([images, np.repeat(images[-1:], missing, 0)])
        try:
            return self._call(np.ascontiguousarray(images).astype(self._dtype, copy=False), outputs)
        except Exception as error:  # both libraries raise unrelated classes of their own
            raise EngineError(
                f"{self.path} does not run on an input of {list(images.shape)}: {first_line(error)}",
                f"set 'multiple_of' or 'size' in {sidecar_path(self.path)}",
            ) from error


def open_session(path: Path, engine: str, device: str, *, threads: int, tf32: bool) -> OnnxSession:
    """Open ``path`` on ``engine`` (ort or openvino).

    ``device`` is auto, cpu, cuda or cuda:N; ``threads`` is the number of CPU threads of one call; ``tf32`` lets a GPU
    multiply in TF32. Raises InputError for a missing file, also one of external data, or other inputs than one image of
    floats; EngineError for a file that does not open; UsageError for a device that is absent, MissingDependency.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no such file",
            SEGMENTER_HINT,
        )
    digest = digest_onnx(path)
    if engine == "openvino":
        session = _open_openvino(path, digest, device, threads)
    else:
        session = _open_ort(path, digest, device, threads, tf32)
    sides = [side for side in (*session.shape[:1], *session.shape[2:]) if side is not None]
    if len(session.shape) != 4 or session.shape[1] not in (3, None) or not all(1 <= side <= MAX_SIDE for side in sides):
        raise InputError(f"{path} takes an input of {list(session.shape)}; allowed: one image [N,3,H,W]",
                         "export the network with an image as its only input")  # fmt: skip
    return session


def _open_ort(path: Path, digest: str, device: str, threads: int, tf32: bool) -> OnnxSession:
    runtime = require("onnxruntime", "cpu")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    on_gpu = "CUDAExecutionProvider" in runtime.get_available_providers() and torch.cuda.is_available()
    where = find_device("cuda" if on_gpu else "cpu") if device == "auto" else find_device(device)
    if where.type == "cuda" and not on_gpu:
        raise UsageError("the installed onnxruntime has no CUDA provider", "use --device cpu, or see dgkit doctor")
    providers: list[Any] = ["CPUExecutionProvider"]
    if where.type == "cuda":
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": where.index or 0, "use_tf32": int(tf32)}))
    try:
        session = runtime.InferenceSession(str(path), options, providers=providers)
        # Names are decoded here, which can fail.
        inputs = [OnnxOutput(i.name, _sizes(i.shape), _ort_type(i.type)) for i in session.get_inputs()]
        outputs = [OnnxOutput(o.name, _sizes(o.shape), _ort_type(o.type)) for o in session.get_outputs()]
    except Exception as error:  # ONNX Runtime raises unrelated classes of its own
        raise EngineError(f"{path} cannot be opened: {first_line(error)}", "export it again") from error
    _require_one_input(path, len(inputs))
    name = inputs[0].name
    return OnnxSession(
        path=path,
        digest=digest,
        shape=inputs[0].shape or (),
        outputs=tuple(outputs),
        device=str(where),
        _call=lambda values, outputs: session.run(list(outputs), {name: values}),
        _dtype=_input_type(path, inputs[0].dtype),
    )


def _open_openvino(path: Path, digest: str, device: str, threads: int) -> OnnxSession:
    if device not in ("auto", "cpu"):
        raise UsageError(f"engine 'openvino' runs on the CPU, not on {device!r}", "use --device cpu")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    try:
        core = openvino_core()
        model = core.read_model(str(path))
        compiled = core.compile_model(model, "CPU", settings)
        request = compiled.create_infer_request()
        # Names are decoded here, which can fail. Outputs of the compiled model may have names of inner tensors.
        names = [output.get_any_name() for output in model.outputs]
    except (RuntimeError, UnicodeDecodeError) as error:
        raise EngineError(f"{path} cannot be opened: {first_line(error)}", "use --engine ort") from error
    _require_one_input(path, len(compiled.inputs))
    outputs = tuple(
        OnnxOutput(name, _openvino_sizes(output.get_partial_shape()), _openvino_type(output))
        for name, output in zip(names, compiled.outputs, strict=True)
    )

    def call(values: np.ndarray, wanted: Sequence[str]) -> list[np.ndarray]:
        request.infer({0: values}, share_inputs=True)
        return [request.get_output_tensor(names.index(name)).data.copy() for name in wanted]

    return OnnxSession(
        path=path,
        digest=digest,
        shape=_openvino_sizes(compiled.input(0).get_partial_shape()) or (),
        outputs=outputs,
        device="cpu",
        _call=call,
        _dtype=_input_type(path, _openvino_type(compiled.input(0))),
    )


def _require_one_input(path: Path, count: int) -> None:
    if count != 1:
        raise InputError(f"{path} takes {count} inputs; allowed: one image [N,3,H,W]", "export it with one input")


def _input_type(path: Path, name: str) -> "np.dtype[Any]":
    """Return the NumPy type of the input. Raises InputError for a type that normalized images cannot have."""
    if name not in INPUTS:
        raise InputError(
            f"{path} takes images of {name}; allowed: {', '.join(INPUTS)}",
            "export it with a float32 input, without the normalization of the image",
        )
    return np.dtype(name)


def _ort_type(name: str) -> str:
    inner = name.removeprefix("tensor(").removesuffix(")")
    return _OF_ORT.get(inner, inner)


def _openvino_type(port: Any) -> str:
    """Return the NumPy name of a type such as f32, bf16, u8 or boolean."""
    name = port.get_element_type().get_type_name()
    letters = name.rstrip("0123456789")
    return _OF_OPENVINO.get(letters, letters) + name[len(letters) :]


def _sizes(shape: Sequence[Any] | None) -> tuple[int | None, ...] | None:
    return None if shape is None else tuple(size if isinstance(size, int) else None for size in shape)


def _openvino_sizes(shape: Any) -> tuple[int | None, ...] | None:
    if shape.rank.is_dynamic:
        return None
    return tuple(size.get_length() if size.is_static else None for size in shape)
