"""ONNX files as segmenters: any network of one image, run unchanged in ONNX Runtime or OpenVINO."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dgkit.errors import InputError, UsageError
from dgkit.labels import IGNORE
from dgkit.resources import usable_cores
from dgkit.segmenters.base import LOGITS, NUMBERS, Segmenter, not_finite
from dgkit.segmenters.class_names import match_classes
from dgkit.segmenters.onnx_output import choose_output, list_maps
from dgkit.segmenters.onnx_session import ONNX_ENGINES, open_session
from dgkit.segmenters.segmenter_sidecar import read_segmenter_sidecar, sidecar_path
from dgkit.taxonomies import CITYSCAPES19, Taxonomy, find_taxonomy
from dgkit.texts import count_of

DEFAULT_MULTIPLE = 32  # of height and width, where the side-car does not state one


@dataclass(frozen=True)
class Prediction:
    """``label``: uint8 [H,W] train ids. ``features``: float32 [D], None if the network has no such output."""

    label: np.ndarray
    features: np.ndarray | None


class OnnxSegmenter(Segmenter):
    """A network with one input image [N,3,H,W] and an output map.

    The map holds logits [N,C,h,w] of any stride, or class numbers [N,H,W] or [N,1,H,W];
    :func:`~dgkit.segmenters.onnx_output.choose_output` chooses it among several. The YAML side-car is described by
    :class:`~dgkit.segmenters.segmenter_sidecar.SegmenterSideCar`. Class numbers of named classes that are none of the
    taxonomy, such as void, become 255.

    :meth:`logits` serves ``dgkit eval``: batches of windows, normalized and resized by PyTorch, padded to a fixed input
    size. :meth:`image_logits` and :meth:`predict` serve ``dgkit quality``, ``dgkit filter`` and the judge of
    ``dgkit generate``: one image of any size, normalized by NumPy, resized by OpenCV to a fixed input size and back.
    The two differ by rounding, so each command keeps the arithmetic that its published figures were measured with.
    """

    def __init__(
        self,
        path: Path,
        engine: str,
        dtype: str,
        device: str,
        *,
        threads: int | None = None,
        tf32: bool = False,
        taxonomy: Taxonomy | None = None,
    ) -> None:
        """Open the file at ``path``.

        ``threads``: CPU threads of one call, by default PyTorch's number; ``tf32``: allow TF32 on a GPU;
        ``taxonomy``: classes to predict, by default those that the side-car states. Raises
        InputError for a missing file or a bad side-car, EngineError for a file that does not open, UsageError for
        another engine or dtype, MissingDependency.
        """
        if engine not in ONNX_ENGINES or dtype != "fp32":
            raise UsageError(
                f"engine {engine!r} in {dtype} cannot run an ONNX file; allowed: {' and '.join(ONNX_ENGINES)}, in fp32",
                "omit --engine and --dtype: the precision is part of the file",
            )
        self.sidecar = read_segmenter_sidecar(path)
        stated = None if self.sidecar.taxonomy is None else find_taxonomy(self.sidecar.taxonomy)
        wanted = taxonomy or stated or CITYSCAPES19
        self._names = self.sidecar.classes or (stated or CITYSCAPES19).names
        self._match = match_classes(self._names, sidecar_path(path), wanted, stated)
        self._keep = self._match.channels
        self._session = open_session(path, engine, device, threads=threads or torch.get_num_threads(), tf32=tf32)
        self.engine, self.digest = engine, self._session.digest
        chosen = choose_output(path, self._session.outputs, self.sidecar, len(self._names))
        self.output = chosen.name
        self._several = len(list_maps(self._session.outputs, self.sidecar)) > 1
        self._numbers = chosen.is_numbers(len(self._names))
        self.values = NUMBERS if self._numbers else self.sidecar.values or LOGITS
        self.values_stated = self.sidecar.values is not None
        # Void is a prediction of its own for class numbers; in logits, the best of the 19 classes wins.
        void = [IGNORE] if self._numbers and self._match.others else []
        super().__init__(
            path,
            "ONNX",
            np.array([*self._match.train_ids, *void], np.uint8),
            self.sidecar.mean,
            self.sidecar.std,
            self._session.device,
            self._notes(),
            taxonomy=wanted,
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
        """Return how the outputs are read, which scores depend on.

        That is the side-car, the output if there are several maps, and names of classes that are spelled otherwise.
        """
        output = {"output": self.output} if self._several else {}
        return {"sidecar": self.sidecar.to_json(), **output, **self._match.facts()}

    def _notes(self) -> tuple[str, ...]:
        others = [o.name for o in list_maps(self._session.outputs, self.sidecar) if o.name != self.output]
        if not others or self.sidecar.output is not None:
            return self._match.notes()
        return (f"output {self.output!r} is read, not {', '.join(map(repr, others))}", *self._match.notes())

    # Batches of windows

    def _run(self, values: Tensor) -> Tensor:
        height, width = values.shape[-2:]
        padding = [self._padded_side(size, axis) - size for size, axis in ((height, 2), (width, 3))]
        if any(padding):
            values = functional.pad(values, (0, padding[1], 0, padding[0]), mode="replicate")
        step = self._session.shape[0] or len(values)
        images = values.cpu().numpy()
        parts = [images[start : start + step] for start in range(0, len(images), step)]
        logits = torch.cat([self._votes(self._map(part)[0]) for part in parts]).to(self.device)
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

        Where windows overlap, class numbers thus count as one vote each. NaN and infinity remain, also in votes.
        """
        if found.ndim == 4:
            self._check_channels(found.shape[1])
            logits = torch.from_numpy(found).float()
            return logits if len(self._keep) == len(self._names) else logits[:, self._keep]
        finite = np.isfinite(found)
        ids = torch.from_numpy(self._train_ids(np.where(finite, found, self._keep[0])))
        votes = (ids[:, None] == torch.from_numpy(self.classes).view(1, -1, 1, 1)).float()
        if not finite.all():
            votes.masked_fill_(torch.from_numpy(~finite)[:, None], torch.nan)
        return votes

    def _train_ids(self, numbers: np.ndarray) -> np.ndarray:
        """Return the train id of each class number, uint8; 255 for a named class that is none of the taxonomy."""
        whole = numbers.astype(np.int64)
        if whole.dtype != numbers.dtype and not np.array_equal(whole, numbers):
            value = numbers[whole != numbers].flat[0]
            raise InputError(
                f"{self.path}: output {self.output!r} holds values such as {value:.4g}, not class numbers",
                f"name the output of the prediction with 'output: NAME' in {sidecar_path(self.path)}",
            )
        if whole.min(initial=0) < 0 or whole.max(initial=0) >= len(self._names):
            raise self._unknown_numbers(whole[(whole < 0) | (whole >= len(self._names))])
        table = np.full(len(self._names), IGNORE, np.uint8)
        table[self._keep] = self._match.train_ids
        return table[whole]

    # Single images

    def image_logits(self, image: np.ndarray, name: str = "the image") -> np.ndarray:
        """Return logits float32 [K,H,W] of ``image``, uint8 [H,W,3] RGB; channel k stands for train id ``classes[k]``.

        ``name`` is for messages. Raises EngineError, also for logits that are not finite, and InputError if the network
        gives class numbers instead of logits.
        """
        resized, padded = self._fit(image)
        found = self._map(self.sidecar.normalize(padded))[0][0]
        if found.ndim == 2:
            raise InputError(f"{self.path} gives class numbers, but logits are needed", "export it without argmax")
        logits = _resize_logits(self._known_channels(found, name), padded.shape[:2])
        height, width = resized.shape[:2]
        return _resize_logits(logits[:, :height, :width], image.shape[:2]).astype(np.float32, copy=False)

    def predict(self, image: np.ndarray, name: str = "the image") -> Prediction:
        """Segment ``image``, uint8 [H,W,3] RGB of any size; ``name`` is for messages.

        Raises EngineError, also for outputs that are not finite, or InputError.
        """
        resized, padded = self._fit(image)
        wanted = [self.sidecar.features] if self.sidecar.features else []
        found, *others = self._map(self.sidecar.normalize(padded), *wanted)
        features = others[0][0].ravel() if others else None
        if features is not None and not np.isfinite(features).all():
            raise not_finite(self.path, str(self.sidecar.features), name)
        label = self._label(found[0], padded.shape[:2], name)
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

    def _label(self, found: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
        """Return uint8 train ids of ``shape`` for logits [C,h,w] or class numbers [h,w]."""
        if found.ndim == 3:
            return self.classes[_resize_logits(self._known_channels(found, name), shape).argmax(0)]
        if not np.isfinite(found).all():
            raise not_finite(self.path, self.output, name)
        return _resize_label(self._train_ids(found), shape)

    def _known_channels(self, found: np.ndarray, name: str) -> np.ndarray:
        self._check_channels(len(found))
        known = found[self._keep]
        if not np.isfinite(known).all():
            raise not_finite(self.path, self.output, name)
        return known

    # Both

    def check_features(self) -> None:
        """Raise InputError if the side-car names an output for ``features`` that the file does not have."""
        wanted, outputs = self.sidecar.features, [output.name for output in self._session.outputs]
        if wanted and wanted not in outputs:
            sidecar = sidecar_path(self.path)
            raise InputError(
                f"{sidecar} names the output {wanted!r}, but {self.path.name} has {', '.join(outputs)}",
                f"correct 'features' in {sidecar}",
            )

    @property
    def _multiple(self) -> int:
        return self.sidecar.multiple_of or DEFAULT_MULTIPLE

    def _map(self, images: np.ndarray, *others: str) -> list[np.ndarray]:
        """Return the map of normalized float32 [N,3,H,W], then the outputs ``others``.

        The map is logits [N,C,h,w] or class numbers [N,h,w].
        """
        values = self._session.run(images, [self.output, *others])
        if not all(value.ndim for value in values[1:]):
            raise InputError(f"{self.path}: {', '.join(others)} is one number; allowed: [N,D]", "correct the side-car")
        found, *rest = (value[: len(images)] if value.ndim else value for value in values)
        if found.ndim not in (3, 4):
            raise InputError(
                f"{self.path}: output {self.output!r} is {list(found.shape)}; allowed: logits [N,C,h,w], class numbers "
                "[N,h,w] or [N,1,h,w]",
                "choose the ONNX file of a segmenter",
            )
        flat = found.ndim == 4 and found.shape[1] == 1 and (self._numbers or len(self._names) > 1)
        return [found[:, 0] if flat else found, *rest]

    def _check_channels(self, count: int) -> None:
        if count != len(self._names):
            raise InputError(
                f"{self.path} gives {count_of(count, 'class', 'classes')}, but names {len(self._names)}",
                self._classes_hint,
            )

    def _unknown_numbers(self, numbers: np.ndarray) -> InputError:
        shown = ", ".join(str(number) for number in np.unique(numbers)[:5])
        return InputError(
            f"{self.path} gave class numbers that stand for none of the {self.taxonomy.size} classes: {shown}",
            self._classes_hint,
        )

    @property
    def _classes_hint(self) -> str:
        return f"list the class names under 'classes' in {sidecar_path(self.path)}"


def open_onnx_segmenter(path: Path | str, taxonomy: Taxonomy | None = None) -> OnnxSegmenter:
    """Open the ONNX file at ``path`` for single images: on a GPU with TF32 if there is one, else on all cores.

    ``taxonomy`` are the classes to predict. Raises what :class:`OnnxSegmenter` raises, and InputError if the side-car
    names an output that is absent.
    """
    segmenter = OnnxSegmenter(
        Path(path), "ort", "fp32", "auto", threads=len(usable_cores()), tf32=True, taxonomy=taxonomy
    )
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
