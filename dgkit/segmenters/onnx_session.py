"""Open an ONNX file of one image input in ONNX Runtime or OpenVINO and run it on arrays."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dgkit.engines.runner import find_device
from dgkit.errors import EngineError, InputError, UsageError
from dgkit.optional import first_line, openvino_core, require
from dgkit.segmenters.onnx_digest import digest_onnx
from dgkit.segmenters.segmenter_sidecar import sidecar_path

ONNX_ENGINES = ("ort", "openvino")


@dataclass(frozen=True)
class OnnxSession:
    """An open ONNX file of one image input, in single or half precision, of any or of a fixed batch size."""

    path: Path
    digest: str
    """SHA-256 of the file and of its external data."""
    shape: tuple[int | None, ...]
    """Input shape [N,3,H,W]; None where a size is free."""
    outputs: tuple[str, ...]
    device: str
    """Device that the file runs on, as PyTorch names it."""
    _call: Callable[[np.ndarray], list[np.ndarray]]
    _dtype: type[np.floating[Any]]

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs by name for ``images``, float32 [N,3,H,W].

        N is at most the batch size that the file fixes, if any. Smaller batches are filled up with copies of the last
        image, so outputs may have more than N rows. Raises EngineError if the network does not run.
        """
        missing = (self.shape[0] or 0) - len(images)
        if missing > 0:
            images = np.concatenate([images, np.repeat(images[-1:], missing, 0)])
        try:
            values = self._call(np.ascontiguousarray(images).astype(self._dtype, copy=False))
        except Exception as error:  # both libraries raise unrelated classes of their own
            raise EngineError(
                f"{self.path} does not run on an input of {list(images.shape)}: {first_line(error)}",
                f"set 'multiple_of' or 'size' in {sidecar_path(self.path)}",
            ) from error
        return dict(zip(self.outputs, values, strict=True))


def open_session(path: Path, engine: str, device: str, *, threads: int, tf32: bool) -> OnnxSession:
    """Open ``path`` on ``engine`` (ort or openvino).

    ``device`` is auto, cpu, cuda or cuda:N; ``threads`` is the number of CPU threads of one call; ``tf32`` lets a GPU
    multiply in TF32. Raises InputError for a missing file, also one of external data, or other inputs than one image;
    EngineError for a file that does not open; UsageError for a device that is absent, MissingDependency.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file", "dgkit train judge DIR writes DIR/segmenter.onnx")
    digest = digest_onnx(path)
    if engine == "openvino":
        session = _open_openvino(path, digest, device, threads)
    else:
        session = _open_ort(path, digest, device, threads, tf32)
    if len(session.shape) != 4 or session.shape[1] not in (3, None):
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
    except Exception as error:  # ONNX Runtime raises unrelated classes of its own
        raise EngineError(f"{path} cannot be opened: {first_line(error)}", "export it again") from error
    inputs = session.get_inputs()
    _require_one_input(path, len(inputs))
    name = inputs[0].name
    return OnnxSession(
        path=path,
        digest=digest,
        shape=tuple(size if isinstance(size, int) else None for size in inputs[0].shape),
        outputs=tuple(output.name for output in session.get_outputs()),
        device=str(where),
        _call=lambda values: session.run(None, {name: values}),
        _dtype=np.float16 if "float16" in inputs[0].type else np.float32,
    )


def _open_openvino(path: Path, digest: str, device: str, threads: int) -> OnnxSession:
    if device not in ("auto", "cpu"):
        raise UsageError(f"engine 'openvino' runs on the CPU, not on {device!r}", "use --device cpu")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    try:
        core = openvino_core()
        compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
        request = compiled.create_infer_request()
    except RuntimeError as error:
        raise EngineError(f"{path} cannot be opened: {first_line(error)}", "use --engine ort") from error
    _require_one_input(path, len(compiled.inputs))
    outputs = tuple(output.get_any_name() for output in compiled.outputs)

    def call(values: np.ndarray) -> list[np.ndarray]:
        request.infer({0: values}, share_inputs=True)
        return [request.get_output_tensor(index).data.copy() for index in range(len(outputs))]

    return OnnxSession(
        path=path,
        digest=digest,
        shape=tuple(size.get_length() if size.is_static else None for size in compiled.input(0).get_partial_shape()),
        outputs=outputs,
        device="cpu",
        _call=call,
        _dtype=np.float16 if "16" in compiled.input(0).get_element_type().get_type_name() else np.float32,
    )


def _require_one_input(path: Path, count: int) -> None:
    if count != 1:
        raise InputError(f"{path} takes {count} inputs; allowed: one image [N,3,H,W]", "export it with one input")
