"""Segmenters to evaluate: anything that becomes a torch module runs on every engine, a foreign ONNX file on two.

A kind of checkpoint is one function that makes a :class:`ModuleSource` of a path; :func:`find_source` chooses it.
"""

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

from dgkit.engines.engine_recipe import known_engine, resolve_device
from dgkit.engines.runner import BuildOptions, Network, Runner, runner_class
from dgkit.engines.spec import SEGMENTER
from dgkit.engines.store import Notify
from dgkit.errors import EngineError, InputError, UsageError
from dgkit.labels import CLASSES

Triple = tuple[float, float, float]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHECKPOINTS = (".pth", ".pt")  # of mmsegmentation
MOST_SHAPES = 6  # compiled engines are made for one size of picture each


@dataclass(frozen=True)
class ModuleSource:
    """A segmenter as a torch module. ``load`` gives one that maps float [B,3,H,W] to logits [B,C,h,w] of any stride;
    ``digest`` identifies its weights and configuration. ``classes``: names of the C outputs. The input is RGB,
    (value / 255 - ``mean``) / ``std``. ``side``: of the square in pixels that a file exported from it is for, None
    where such a file can take any size.
    """

    path: Path
    kind: str
    load: Callable[[], nn.Module]
    digest: str
    classes: tuple[str, ...] = CLASSES
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    side: int | None = None


class Segmenter(ABC):
    """``with segmenter: segmenter.logits(images)``. ``classes``: uint8 [K], the train id of each channel of logits."""

    def __init__(self, path: Path, kind: str, classes: np.ndarray, mean: Triple, std: Triple, device: str) -> None:
        self.path, self.kind, self.classes = path, kind, classes
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
        """float32 [B,K,H,W] on ``device`` for uint8 [B,3,H,W] RGB. Raises EngineError or InputError."""
        values = images.to(self.device).float().sub_(self._mean).div_(self._std)
        return self._run(values)

    def close(self) -> None:
        """Release what is open."""
        self._opened.close()

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What a report says of it."""

    @abstractmethod
    def _run(self, values: Tensor) -> Tensor:
        """Logits float32 [B,K,H,W] for normalised float32 [B,3,H,W], both on ``device``."""


class FullSize(nn.Module):
    """Normalised ``image`` float [B,3,H,W] -> logits [B,K,H,W] of the channels ``keep``, bilinearly enlarged."""

    def __init__(self, module: nn.Module, keep: Sequence[int], channels: int) -> None:
        super().__init__()
        self.module = module
        self._keep = None if list(keep) == list(range(channels)) else list(keep)

    def forward(self, image: Tensor) -> Tensor:
        logits = self.module(image)
        if self._keep is not None:
            logits = logits[:, self._keep]
        if logits.shape[-2:] == image.shape[-2:]:
            return logits
        return functional.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)


class ModuleSegmenter(Segmenter):
    """A :class:`ModuleSource` on one of dgkit's engines: a runner for each size of picture, made when it is met."""

    def __init__(
        self,
        source: ModuleSource,
        engine: str = "torch",
        dtype: str = "fp32",
        device: str = "auto",
        *,
        batch: int = 4,
        notify: Notify | None = None,
    ) -> None:
        """Raises UsageError where the engine does not run on this device or in this dtype."""
        self.source, self.engine, self.dtype, self.notify = source, known_engine(engine), dtype, notify
        self._keep, classes = train_ids(source.classes, source.path)
        self._options = BuildOptions(batch=(1, batch, batch))
        self._runners: dict[tuple[int, int] | None, Runner] = {}  # by size; None: any
        super().__init__(source.path, source.kind, classes, source.mean, source.std, resolve_device(device, engine))
        self._runner(64, 64)  # refuses here, before any file is read, what the engine does not run

    def facts(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "kind": self.kind,
            "sha256": self.source.digest,
            "engine": self.engine,
            "dtype": self.dtype,
            "device": str(self.device),
        }

    def close(self) -> None:
        super().close()
        self._runners.clear()

    def _run(self, values: Tensor) -> Tensor:
        height, width = values.shape[-2:]
        size = None if self.engine == "torch" else (height, width)
        if size not in self._runners:
            if len(self._runners) >= MOST_SHAPES:
                raise EngineError(
                    f"engine '{self.engine}' is compiled for one size of picture; here are more than {MOST_SHAPES}",
                    "use --engine torch for a data set of mixed sizes",
                )
            self._runners[size] = self._opened.enter_context(self._runner(height, width))
        return self._runners[size](image=values)["logits"].to(self.device).float()

    def _runner(self, height: int, width: int) -> Runner:
        sizes = {"batch": min(2, self._options.batch[2]), "rgb": 3, "classes": len(self.classes)}
        sizes |= {"height": height, "width": width, "image_height": height, "image_width": width}
        network = Network(SEGMENTER, self._module, self._digest, sizes, str(self.path))
        return runner_class(self.engine)(
            network, str(self.device), self.dtype, notify=self.notify, options=self._options
        )

    def _module(self) -> nn.Module:
        return FullSize(self.source.load(), self._keep, len(self.source.classes)).eval()

    def _digest(self) -> str:
        return hashlib.sha256(f"{self.source.digest} {self._keep}".encode()).hexdigest()


def open_segmenter(
    path: Path | str,
    engine: str | None = None,
    dtype: str = "fp32",
    device: str = "auto",
    *,
    config: Path | None = None,
    batch: int = 4,
    notify: Notify | None = None,
) -> Segmenter:
    """The segmenter at ``path``: an ONNX file with its side-car, or what :func:`find_source` knows.

    ``engine`` None: ort for an ONNX file, else torch. Raises UsageError for a path, a config or an engine that does not
    fit, InputError (ModelError) for a damaged one, MissingDependency.
    """
    path = Path(path)
    if engine is not None:
        known_engine(engine)
    if path.suffix == ".onnx" and config is None:
        from dgkit.segmenters.onnx import OnnxSegmenter

        return OnnxSegmenter(path, engine or "ort", dtype, device)
    return ModuleSegmenter(find_source(path, config), engine or "torch", dtype, device, batch=batch, notify=notify)


def find_source(path: Path, config: Path | None = None) -> ModuleSource:
    """The checkpoint at ``path`` as a module; ``config`` is that of a checkpoint of mmsegmentation, and is executed.

    Raises UsageError where it is of no kind that is known, and what the readers of its kind raise.
    """
    if path.suffix in CHECKPOINTS:
        from dgkit.segmenters.mmseg import mmseg_source

        return mmseg_source(path, config)
    if config is not None:
        raise UsageError(
            f"{path} with the config {config}; a config goes with a checkpoint (*{' and *'.join(CHECKPOINTS)}) only",
            "leave --config out",
        )
    if path.is_dir() and (path / "config.json").is_file():
        from dgkit.segmenters.transformers import transformers_source

        return transformers_source(path)
    raise UsageError(
        f"{path} is no segmenter; allowed are an .onnx file, a checkpoint of mmsegmentation (.pth) and a transformers "
        "folder with config.json",
        "dgkit train segmenter and dgkit train judge write a segmenter.onnx",
    )


def train_ids(names: Sequence[str], path: Path) -> tuple[list[int], np.ndarray]:
    """(channels that stand for one of the 19 classes, their train ids uint8). InputError where none does.

    The other channels cannot win a pixel: labels do not have them.
    """
    keep = [number for number, name in enumerate(names) if name in CLASSES]
    if not keep:
        raise InputError(f"{path} names none of the 19 classes", f"use names such as {CLASSES[0]!r}")
    return keep, np.array([CLASSES.index(names[number]) for number in keep], np.uint8)
