"""The interface of every segmenter, and segmenters made from a torch module, which run on every engine."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dgkit.engines.engine_recipe import resolve_device
from dgkit.engines.runner import BuildOptions, Network, Runner, known_engine, runner_class
from dgkit.engines.spec import SEGMENTER
from dgkit.errors import EngineError
from dgkit.progress import Notify
from dgkit.segmenters.class_names import match_classes
from dgkit.segmenters.early_fusion import fuse_early
from dgkit.taxonomies import CITYSCAPES19, Taxonomy

Triple = tuple[float, float, float]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LOGITS, SCORES, NUMBERS = "logits", "scores", "numbers"  # what a segmenter gives for each pixel
MAX_SIZES = 6  # a compiled engine is built for one image size


@dataclass(frozen=True)
class Normalization:
    """How a network takes images: RGB, (value / 255 - ``mean``) / ``std``, sides multiples of ``multiple_of``.

    ``multiple_of`` None: squares of one size.
    """

    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    multiple_of: int | None = None


@dataclass(frozen=True)
class ModuleSource:
    """A checkpoint that loads as a torch module.

    ``load`` returns a module that maps float [B,3,H,W] to logits [B,C,h,w] of any stride; its input is RGB,
    (value / 255 - ``mean``) / ``std``. ``digest`` identifies weights and configuration. ``classes``: names of the C
    outputs, of ``taxonomy`` if the checkpoint states it. ``side``: input height and width in pixels of an ONNX export,
    None if an export takes any size. ``notes``: sentences for the user on what was assumed or is not used.
    ``values``: as that of :class:`Segmenter`. ``segformer``: whether engines fuse its head early.
    """

    path: Path
    kind: str
    load: Callable[[], nn.Module]
    digest: str
    classes: tuple[str, ...] = CITYSCAPES19.names
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    side: int | None = None
    notes: tuple[str, ...] = ()
    taxonomy: Taxonomy | None = None
    values: str = LOGITS
    segformer: bool = False


class Segmenter(ABC):
    """A network that labels images, used as ``with segmenter: segmenter.logits(images)``.

    ``taxonomy``: the classes of its predictions. ``classes``: uint8 [K], the train id of each channel of the logits,
    255 for a channel that counts class numbers of none of the classes. ``output``: name of the output with the logits
    or class numbers. ``notes``: sentences for the user on what was assumed or is not used. ``values``: what the output
    holds, "logits" of a softmax, "scores" that are proportional to probabilities, as those of query heads, or
    "numbers" of classes. ``values_stated``: False if logits are an assumption.
    """

    output = "logits"
    values = LOGITS
    values_stated = True

    def __init__(
        self,
        path: Path,
        kind: str,
        classes: np.ndarray,
        mean: Triple,
        std: Triple,
        device: str,
        notes: tuple[str, ...] = (),
        *,
        taxonomy: Taxonomy = CITYSCAPES19,
    ) -> None:
        self.path, self.kind, self.classes, self.notes = path, kind, classes, notes
        self.taxonomy = taxonomy
        self.device = torch.device(device)
        self._opened = ExitStack()
        self._mean, self._std = (255 * torch.tensor(v, device=self.device).view(1, 3, 1, 1) for v in (mean, std))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def logits(self, images: Tensor) -> Tensor:
        """Return float32 [B,K,H,W] on ``device`` for ``images``, uint8 [B,3,H,W] RGB.

        Raises EngineError or InputError.
        """
        values = images.to(self.device).float().sub_(self._mean).div_(self._std)
        return self._run(values)

    def check_finite(self, logits: Tensor, images: Sequence[str]) -> None:
        """Raise EngineError, naming the first of ``images`` whose ``logits``, float [B,...], hold NaN or infinity."""
        if bool(logits.sum().isfinite()):  # much faster than a test of each value
            return
        for image, values in zip(images, logits, strict=True):
            if not bool(values.isfinite().all()):
                raise not_finite(self.path, self.output, image)

    def close(self) -> None:
        """Release the network."""
        self._opened.close()

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return what a report states about this segmenter."""

    @abstractmethod
    def _run(self, values: Tensor) -> Tensor:
        """Return logits float32 [B,K,H,W] for normalized float32 [B,3,H,W], both on ``device``."""


class FullSize(nn.Module):
    """A module whose logits, of the channels ``keep`` alone, are resized bilinearly to the size of its input."""

    def __init__(self, module: nn.Module, keep: Sequence[int], channels: int) -> None:
        super().__init__()
        self.module = module
        self._keep = None if list(keep) == list(range(channels)) else list(keep)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits [B,K,H,W] for normalized ``image``, float [B,3,H,W]."""
        logits = self.module(image)
        if self._keep is not None:
            logits = logits[:, self._keep]
        if logits.shape[-2:] == image.shape[-2:]:
            return logits
        return functional.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)


class ModuleSegmenter(Segmenter):
    """A :class:`ModuleSource` on one of dgkit's engines, with one runner for each image size, made on first use."""

    def __init__(
        self,
        source: ModuleSource,
        engine: str,
        dtype: str,
        device: str,
        *,
        batch: int,
        notify: Notify | None,
        taxonomy: Taxonomy | None = None,
    ) -> None:
        """Prepare ``source`` for ``engine``; ``batch`` is the largest batch, ``taxonomy`` the classes to predict.

        Raises UsageError if the engine does not run on this device or in this dtype.
        """
        self.source, self.engine, self.dtype, self.notify = source, known_engine(engine), dtype, notify
        wanted = taxonomy or source.taxonomy or CITYSCAPES19
        self._match = match_classes(source.classes, source.path, wanted, source.taxonomy)
        self._keep = self._match.channels
        self._options = BuildOptions(batch=(1, batch, batch))
        self._runners: dict[tuple[int, int] | None, Runner] = {}  # by (height, width); None: any size
        super().__init__(
            source.path,
            source.kind,
            self._match.train_ids,
            source.mean,
            source.std,
            resolve_device(device, engine),
            source.notes + self._match.notes(),
            taxonomy=wanted,
        )
        self.values = source.values
        self._runner(64, 64)  # fails early, before any file is read, if the engine cannot run this

    def facts(self) -> dict[str, Any]:
        """Return what a report states about this segmenter."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "sha256": self.source.digest,
            "engine": self.engine,
            "dtype": self.dtype,
            "device": str(self.device),
            **self._match.facts(),
        }

    def close(self) -> None:
        """Release the network and all runners."""
        super().close()
        self._runners.clear()

    def _run(self, values: Tensor) -> Tensor:
        height, width = values.shape[-2:]
        size = None if self.engine == "torch" else (height, width)
        if size not in self._runners:
            if len(self._runners) >= MAX_SIZES:
                raise EngineError(
                    f"engine {self.engine!r} is compiled per image size; at most {MAX_SIZES} sizes are allowed",
                    "use --engine torch for a data set of mixed sizes",
                )
            self._runners[size] = self._opened.enter_context(self._runner(height, width))
        return self._runners[size](image=values)["logits"].to(self.device).float()

    def _runner(self, height: int, width: int) -> Runner:
        sizes = {"batch": min(2, self._options.batch[2]), "rgb": 3, "classes": len(self._keep)}
        sizes |= {"height": height, "width": width, "image_height": height, "image_width": width}
        network = Network(SEGMENTER, self._module, self._digest, sizes, str(self.path))
        return runner_class(self.engine)(
            network, str(self.device), self.dtype, notify=self.notify, options=self._options
        )

    def _module(self) -> nn.Module:
        module = self.source.load()
        if self.engine != "torch":  # the reference keeps the arithmetic of the library
            fuse_early(module)
        return FullSize(module, self._keep, len(self.source.classes)).eval()

    def _digest(self) -> str:
        graph = " early fusion" if self.source.segformer and self.engine != "torch" else ""
        return hashlib.sha256(f"{self.source.digest} {self._keep}{graph}".encode()).hexdigest()


def not_finite(path: Path, output: str, image: str) -> EngineError:
    """Return the error for an output that holds NaN or infinity for ``image``."""
    return EngineError(
        f"{path}: output {output!r} is NaN or infinite for {image}",
        "the weights are damaged, or their precision is too low: use fp32",
    )
