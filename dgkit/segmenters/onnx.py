"""ONNX files as segmenters: any network of one image, run unchanged in ONNX Runtime or OpenVINO."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dgkit.errors import InputError, UsageError
from dgkit.labels import CLASSES
from dgkit.resources import usable_cores
from dgkit.segmenters.base import Segmenter
from dgkit.segmenters.class_names import match_classes
from dgkit.segmenters.onnx_session import ONNX_ENGINES, open_session
from dgkit.segmenters.segmenter_sidecar import read_segmenter_sidecar, sidecar_path

DEFAULT_MULTIPLE = 32  # of height and width, where the side-car does not state one


@dataclass(frozen=True)
class Prediction:
    """``label``: uint8 [H,W] train ids. ``features``: float32 [D], None if the network has no such output."""

    label: np.ndarray
    features: np.ndarray | None


class OnnxSegmenter(Segmenter):
    """A network with one input image [N,3,H,W] and an output map.

    The map holds logits [N,C,h,w] of any stride, or class numbers [N,H,W] or [N,1,H,W]. The YAML side-car is described
    by :class:`~dgkit.segmenters.segmenter_sidecar.SegmenterSideCar`.

    :meth:`logits` serves ``dgkit eval``: batches of windows, normalized and resized by PyTorch, padded to a fixed input
    size. :meth:`image_logits` and :meth:`predict` serve ``dgkit quality``, ``dgkit filter`` and the judge of
    ``dgkit generate``: one image of any size, normalized by NumPy, resized by OpenCV to a fixed input size and back.
    The two differ by rounding, so each command keeps the arithmetic that its published figures were measured with.
    """

    def __init__(
        self, path: Path, engine: str, dtype: str, device: str, *, threads: int | None = None, tf32: bool = False
    ) -> None:
        """Open the file at ``path``.

        ``threads``: CPU threads of one call, by default PyTorch's number; ``tf32``: allow TF32 on a GPU. Raises
        InputError for a missing file or a bad side-car, EngineError for a file that does not open, UsageError for
        another engine or dtype, MissingDependency.
        """
        if engine not in ONNX_ENGINES or dtype != "fp32":
            raise UsageError(
                f"engine {engine!r} in {dtype} cannot run an ONNX file; allowed: {' and '.join(ONNX_ENGINES)}, in fp32",
                "omit --engine and --dtype: the precision is part of the file",
            )
        self.sidecar = read_segmenter_sidecar(path)
        self._names = self.sidecar.classes or CLASSES
        self._match = match_classes(self._names, sidecar_path(path))
        self._keep = self._match.channels
        self._session = open_session(path, engine, device, threads=threads or torch.get_num_threads(), tf32=tf32)
        self.engine, self.digest = engine, self._session.digest
        super().__init__(
            path,
            "ONNX",
            self._match.train_ids,
            self.sidecar.mean,
            self.sidecar.std,
            self._session.device,
            self._match.notes(),
        )

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """Height and width of the input if the file fixes both, else None."""
        height, width = self._session.shape[2:]
        return (height, width) if height and width else None

    def facts(self) -> dict[str, Any]:
        """Return what a report states about this segmenter."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "sha256": self.digest,
            **self.reading(),
            "engine": self.engine,
            "dtype": "as in the file",
            "device": str(self.device),
        }

    def reading(self) -> dict[str, Any]:
        """Return how the outputs are read, which scores depend on: the side-car, and names of classes that vary."""
        return {"sidecar": self.sidecar.model_dump(mode="json"), **self._match.facts()}

    # Batches of windows

    def _run(self, values: Tensor) -> Tensor:
        height, width = values.shape[-2:]
        padding = [self._padded_side(size, axis) - size for size, axis in ((height, 2), (width, 3))]
        if any(padding):
            values = functional.pad(values, (0, padding[1], 0, padding[0]), mode="replicate")
        step = self._session.shape[0] or len(values)
        images = values.cpu().numpy()
        parts = [images[start : start + step] for start in range(0, len(images), step)]
        logits = torch.cat([self._votes(self._map(part)) for part in parts]).to(self.device)
        if logits.shape[-2:] != values.shape[-2:]:
            logits = functional.interpolate(logits, size=values.shape[-2:], mode="bilinear", align_corners=False)
        return logits[..., :height, :width]

    def _padded_side(self, size: int, axis: int) -> int:
        fixed = self._session.shape[axis]
        if fixed is None:
            return size + -size % self._multiple
        if size > fixed:
            height, width = self._session.shape[2:]
            raise UsageError(
                f"{self.path} takes images of {width}x{height}; the protocol gives larger ones",
                f"use --set crop={min(side for side in (height, width) if side)}",
            )
        return fixed

    def _votes(self, found: np.ndarray) -> Tensor:
        """Return float32 [N,K,h,w]: logits of the known classes, or 1 for the class of a pixel and 0 for the others.

        Where windows overlap, class numbers thus count as one vote each.
        """
        if found.ndim == 4:
            self._check_channels(found.shape[1])
            logits = torch.from_numpy(found).float()
            return logits if len(self._keep) == len(self._names) else logits[:, self._keep]
        numbers = torch.from_numpy(found.astype(np.int64))
        votes = (numbers[:, None] == torch.tensor(self._keep).view(1, -1, 1, 1)).float()
        unknown = ~votes.any(1)
        if bool(unknown.any()):
            raise self._unknown_numbers(numbers[unknown].numpy())
        return votes

    # Single images

    def image_logits(self, image: np.ndarray) -> np.ndarray:
        """Return logits float32 [K,H,W] of ``image``, uint8 [H,W,3] RGB; channel k stands for train id ``classes[k]``.

        Raises EngineError, and InputError if the network gives class numbers instead of logits.
        """
        resized, padded = self._fit(image)
        found = self._map(self.sidecar.normalize(padded))[0]
        if found.ndim == 2:
            raise InputError(f"{self.path} gives class numbers, but logits are needed", "export it without argmax")
        logits = _resize_logits(self._known_channels(found), padded.shape[:2])
        height, width = resized.shape[:2]
        return _resize_logits(logits[:, :height, :width], image.shape[:2]).astype(np.float32, copy=False)

    def predict(self, image: np.ndarray) -> Prediction:
        """Segment ``image``, uint8 [H,W,3] RGB of any size. Raises EngineError or InputError."""
        resized, padded = self._fit(image)
        outputs = self._session.run(self.sidecar.normalize(padded))
        features = outputs[self.sidecar.features][0].ravel() if self.sidecar.features else None
        label = self._label(self._choose_map(outputs)[0], padded.shape[:2])
        height, width = resized.shape[:2]
        label = _resize_label(label[:height, :width], image.shape[:2])
        return Prediction(np.ascontiguousarray(label), features)

    def _fit(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ``image`` resized to the sides that the file fixes, and that image with its free sides padded.

        Padding repeats the border up to the next multiple.
        """
        sides = zip(image.shape[:2], self._session.shape[2:], strict=True)
        height, width = (fixed or side for side, fixed in sides)
        if (height, width) != image.shape[:2]:
            import cv2

            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        padding = [
            (0, 0 if fixed else -side % self._multiple)
            for side, fixed in zip((height, width), self._session.shape[2:], strict=True)
        ]
        return image, np.pad(image, (*padding, (0, 0)), mode="edge")

    def _label(self, found: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return uint8 train ids of ``shape`` for logits [C,h,w] or class numbers [h,w]."""
        if found.ndim == 3:
            return self.classes[_resize_logits(self._known_channels(found), shape).argmax(0)]
        numbers = _resize_label(found.astype(np.int32), shape)
        known = np.isin(numbers, self._keep)
        if not known.all():
            raise self._unknown_numbers(numbers[~known])
        table = np.zeros(len(self._names), np.uint8)
        table[self._keep] = self.classes
        return table[numbers]

    def _known_channels(self, found: np.ndarray) -> np.ndarray:
        self._check_channels(len(found))
        return found[self._keep]

    # Both

    def check_features(self) -> None:
        """Raise InputError if the side-car names an output for ``features`` that the file does not have."""
        wanted, outputs = self.sidecar.features, self._session.outputs
        if wanted and wanted not in outputs:
            sidecar = sidecar_path(self.path)
            raise InputError(
                f"{sidecar} names the output {wanted!r}, but {self.path.name} has {', '.join(outputs)}",
                f"correct 'features' in {sidecar}",
            )

    @property
    def _multiple(self) -> int:
        return self.sidecar.multiple_of or DEFAULT_MULTIPLE

    def _map(self, images: np.ndarray) -> np.ndarray:
        """Return the output map of normalized float32 [N,3,H,W]: logits [N,C,h,w] or class numbers [N,h,w]."""
        return self._choose_map(self._session.run(images))[: len(images)]

    def _choose_map(self, outputs: dict[str, np.ndarray]) -> np.ndarray:
        maps = [value for name, value in outputs.items() if value.ndim >= 3 and name != self.sidecar.features]
        if not maps:
            raise InputError(
                f"{self.path} has the outputs {', '.join(outputs)}; none is a map of logits or class numbers",
                "choose the ONNX file of a segmenter",
            )
        first = maps[0]
        return first[:, 0] if first.ndim == 4 and first.shape[1] == 1 else first

    def _check_channels(self, count: int) -> None:
        if count != len(self._names):
            raise InputError(f"{self.path} gives {count} classes, but {len(self._names)} are named", self._classes_hint)

    def _unknown_numbers(self, numbers: np.ndarray) -> InputError:
        shown = ", ".join(str(number) for number in np.unique(numbers)[:5])
        return InputError(
            f"{self.path} gave class numbers that stand for none of the 19 classes: {shown}", self._classes_hint
        )

    @property
    def _classes_hint(self) -> str:
        return f"list the class names under 'classes' in {sidecar_path(self.path)}"


def open_onnx_segmenter(path: Path | str) -> OnnxSegmenter:
    """Open the ONNX file at ``path`` for single images: on a GPU with TF32 if there is one, else on all cores.

    Raises what :class:`OnnxSegmenter` raises, and InputError if the side-car names an output that is absent.
    """
    segmenter = OnnxSegmenter(Path(path), "ort", "fp32", "auto", threads=len(usable_cores()), tf32=True)
    segmenter.check_features()
    return segmenter


def _resize_label(label: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return [h,w] resized to ``shape`` by nearest neighbour, pixel centres aligned."""
    if label.shape == tuple(shape):
        return label
    rows, columns = (((np.arange(n) + 0.5) * o / n).astype(int) for n, o in zip(shape, label.shape, strict=True))
    return label[np.ix_(rows, columns)]


def _resize_logits(logits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return [K,h,w] resized to ``shape`` bilinearly, channel by channel."""
    if logits.shape[1:] == tuple(shape):
        return logits
    import cv2

    size = (shape[1], shape[0])
    planes = [cv2.resize(plane.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) for plane in logits]
    return np.stack(planes)
