"""Segmenters and style classifiers as ONNX files: any network that takes an image and gives logits or labels.

A side-car YAML beside the file (same name) says how to feed it; every key has a default, see :class:`SideCar`.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from dgkit.config import Config, load_config
from dgkit.data.pictures import centre_square
from dgkit.data.prompts import NO_STYLE, STYLES
from dgkit.errors import EngineError, InputError
from dgkit.files import digest_file
from dgkit.labels import CLASSES
from dgkit.optional import first_line, require

TRAIN_HINT = "dgkit train judge DIR trains one, then give --judge DIR"


class SideCar(Config):
    """How to feed a network and what its outputs mean. The input is NCHW, RGB, (value / 255 - mean) / std."""

    layout: str = Field("NCHW, RGB, (value / 255 - mean) / std", description="for readers; not used")
    mean: tuple[float, float, float] = Field((0.485, 0.456, 0.406), description="of RGB / 255")
    std: tuple[float, float, float] = Field((0.229, 0.224, 0.225), description="of RGB / 255")
    classes: tuple[str, ...] | None = Field(None, description="names of the outputs; null: the 19 classes")
    multiple_of: int | None = Field(None, ge=1, description="height and width must be multiples; null: of 32")
    size: int | None = Field(None, ge=1, description="side of the square that a classifier takes")
    features: str | None = Field(None, description="output [N,D] that describes the whole picture")


@dataclass(frozen=True)
class Prediction:
    """``label``: uint8 [H,W] train ids. ``features``: float32 [D], None where the network has no such output."""

    label: np.ndarray
    features: np.ndarray | None


class OnnxModel:
    """One ONNX file, open, with its side-car. Runs on CUDA where ONNX Runtime offers it, else on the CPU."""

    def __init__(self, path: Path | str) -> None:
        """Raises InputError for a missing file or a bad side-car, EngineError for a file that cannot be opened."""
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"{self.path}: no such file; the judge is an ONNX file", TRAIN_HINT)
        beside = self.path.with_suffix(".yaml")
        self.sidecar = load_config(SideCar, beside if beside.exists() else None)
        runtime = require("onnxruntime", "cpu")
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [name for name in wanted if name in runtime.get_available_providers()]
        try:
            self._session = runtime.InferenceSession(str(self.path), options, providers=providers)
        except Exception as error:  # ONNX Runtime raises its own unrelated classes
            raise EngineError(f"{self.path} cannot be opened: {first_line(error)}", "export it again") from error
        self.outputs = [output.name for output in self._session.get_outputs()]
        if self.sidecar.features and self.sidecar.features not in self.outputs:
            raise InputError(
                f"{beside} names the output {self.sidecar.features!r}, {self.path.name} has {', '.join(self.outputs)}",
                f"correct 'features' in {beside}",
            )
        inputs = self._session.get_inputs()
        self._input = inputs[0].name
        shape = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
            raise InputError(
                f"{self.path} takes {len(inputs)} inputs, the first {shape}; allowed is one image [N,3,H,W]",
                "export the network with an image as its only input",
            )
        self.fixed = (shape[2], shape[3]) if isinstance(shape[2], int) and isinstance(shape[3], int) else None

    @property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return digest_file(self.path)

    def run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs by name for uint8 [H,W,3] RGB. Raises EngineError."""
        scaled = image.astype(np.float32) / 255
        normal = (scaled - np.array(self.sidecar.mean, np.float32)) / np.array(self.sidecar.std, np.float32)
        try:
            values = self._session.run(None, {self._input: np.ascontiguousarray(normal.transpose(2, 0, 1)[None])})
        except Exception as error:  # see above
            hint = f"state 'multiple_of' or 'size' in {self.path.with_suffix('.yaml')}"
            raise EngineError(f"{self.path} with a picture {image.shape}: {first_line(error)}", hint) from error
        return dict(zip(self.outputs, values, strict=True))


class Segmenter(OnnxModel):
    """A network with an output of logits [N,C,h,w] (any stride) or of class numbers [N,H,W] or [N,1,H,W]."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        names = self.sidecar.classes or CLASSES
        self._table = np.array([CLASSES.index(name) if name in CLASSES else -1 for name in names])
        if (self._table < 0).all():
            raise InputError(
                f"{self.path.with_suffix('.yaml')} names none of the 19 classes", f"use names such as {CLASSES[0]!r}"
            )

    def predict(self, image: np.ndarray) -> Prediction:
        """Segment uint8 [H,W,3] RGB of any size. Raises EngineError or InputError."""
        height, width = image.shape[:2]
        fitted = self._fitted(image)
        outputs = self.run(fitted)
        features = outputs[self.sidecar.features][0].ravel() if self.sidecar.features else None
        label = self._label(self._map(outputs), fitted.shape[:2])
        label = _resized(label, (height, width)) if self.fixed else label[:height, :width]
        return Prediction(np.ascontiguousarray(label), features)

    def logits(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(float32 [K,H,W], uint8 [K]): logits at the size of uint8 [H,W,3] RGB, and the train id of each channel.

        Channels that stand for none of the 19 classes are left out. Raises EngineError, and InputError where the
        network gives class numbers instead of logits.
        """
        height, width = image.shape[:2]
        fitted = self._fitted(image)
        found = self._map(self.run(fitted))
        if found.ndim == 2:
            raise InputError(f"{self.path} gives class numbers, logits are needed", "export it without argmax")
        logits, ids = self._channels(found)
        logits = _enlarged(logits, fitted.shape[:2])
        logits = _enlarged(logits, (height, width)) if self.fixed else logits[:, :height, :width]
        return logits.astype(np.float32, copy=False), ids

    def _fitted(self, image: np.ndarray) -> np.ndarray:
        """The picture at the size that the network takes: resized to a fixed one, else padded by its border."""
        if self.fixed:
            import cv2

            return cv2.resize(image, (self.fixed[1], self.fixed[0]), interpolation=cv2.INTER_LINEAR)
        step = self.sidecar.multiple_of or 32
        padding = [(0, -side % step) for side in image.shape[:2]]
        return np.pad(image, (*padding, (0, 0)), mode="edge")

    def _map(self, outputs: dict[str, np.ndarray]) -> np.ndarray:
        """The output that is a map: [C,h,w] or [H,W]."""
        maps = [value[0] for name, value in outputs.items() if value.ndim >= 3 and name != self.sidecar.features]
        if not maps:
            raise InputError(
                f"{self.path} has the outputs {', '.join(self.outputs)}; none is a map of logits or labels",
                "give a segmenter",
            )
        found = maps[0]
        return found[0] if found.ndim == 3 and len(found) == 1 else found

    def _label(self, found: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """uint8 train ids of ``shape`` from logits or class numbers."""
        if found.ndim == 2:
            numbers = _resized(found.astype(np.int32), shape)
            known = (numbers >= 0) & (numbers < len(self._table))
            label = np.where(known, self._table[np.where(known, numbers, 0)], -1)
            if (label < 0).any():
                wrong = np.unique(numbers[label < 0])[:5].tolist()
                raise InputError(
                    f"{self.path} gave the class numbers {wrong}, which stand for none of the 19 classes",
                    f"list the names under 'classes' in {self.path.with_suffix('.yaml')}",
                )
            return label.astype(np.uint8)
        logits, ids = self._channels(found)
        return ids[_enlarged(logits, shape).argmax(0)]

    def _channels(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The channels of [C,h,w] that stand for one of the 19 classes, and their train ids.

        The others cannot win: the labels do not have them.
        """
        if len(found) != len(self._table):
            raise InputError(
                f"{self.path} gives {len(found)} classes, {len(self._table)} are named",
                f"list the names under 'classes' in {self.path.with_suffix('.yaml')}",
            )
        kept = np.flatnonzero(self._table >= 0)
        return found[kept], self._table[kept].astype(np.uint8)


class StyleClassifier(OnnxModel):
    """A network with logits [N,styles]; the side-car names the styles."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        known = (*STYLES, NO_STYLE)
        self.styles = self.sidecar.classes or known
        wrong = [name for name in self.styles if name not in known]
        if wrong:
            raise InputError(
                f"{self.path.with_suffix('.yaml')} names the styles {', '.join(wrong)}; allowed: {', '.join(known)}",
                "a style classifier names styles under 'classes'",
            )

    def predict(self, image: np.ndarray) -> str:
        """Style of uint8 [H,W,3] RGB, seen through the square in its middle. Raises EngineError or InputError."""
        side = self.fixed[0] if self.fixed else self.sidecar.size or 128
        logits = next(iter(self.run(centre_square(image, side)).values()))[0].ravel()
        if len(logits) != len(self.styles):
            raise InputError(f"{self.path} gives {len(logits)} styles, {len(self.styles)} are named", "see 'classes'")
        return self.styles[int(logits.argmax())]


def _resized(label: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if label.shape == tuple(shape):
        return label
    rows, columns = (((np.arange(n) + 0.5) * o / n).astype(int) for n, o in zip(shape, label.shape, strict=True))
    return label[np.ix_(rows, columns)]


def _enlarged(logits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Logits [K,h,w] resized bilinearly to ``shape``."""
    if logits.shape[1:] == tuple(shape):
        return logits
    import cv2

    size = (shape[1], shape[0])
    planes = [cv2.resize(plane.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) for plane in logits]
    return np.stack(planes)
