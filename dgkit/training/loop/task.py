"""The base class of what the trainer trains."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]
"""Named tensors: one sample, or several samples stacked to a batch."""


class TrainingTask(ABC):
    """A module with its samples, its loss and its validation."""

    name: str
    """Name of the stage in progress reports, messages and checkpoints."""
    module: nn.Module
    """Its parameters that require gradients are trained, in float32. Several processes only share the gradients of
    computations inside its ``forward``."""
    parameter_scale: tuple[str, float] = ("", 1.0)
    """Substring of parameter names and a factor on their learning rate; ``("", 1.0)`` scales none."""
    identity: Mapping[str, Any] = MappingProxyType({})
    """JSON values by name (seed, weights of the loss) that must be the same when a run is resumed."""

    @abstractmethod
    def sample(self, index: int) -> Tensors:
        """Return sample ``index``, a pure function of ``index``: CPU tensors whose shapes are the same for all."""

    @abstractmethod
    def loss(self, module: nn.Module, batch: Tensors) -> Tensor:
        """Return the mean loss of a batch, a scalar. ``module`` is ``self.module``, possibly wrapped.

        With ``cuda_graph`` it must not wait for the device.
        """

    def place(self, device: torch.device) -> None:
        """Move frozen modules outside of ``module`` to ``device``; called once before the first step."""
        return

    def encode(self, batch: Tensors) -> Tensors:
        """Return the batch as ``loss`` expects it, processed by frozen networks; called without gradients."""
        return batch

    def describe(self, index: int) -> str:
        """Return the source of sample ``index`` for error messages, such as a file name; empty if unknown."""
        return ""

    def validate(self, module: nn.Module, step: int, folder: Path) -> Mapping[str, float | np.ndarray]:
        """Return metrics and images (uint8 [H,W,3]) by name after ``step`` steps; may write to ``folder``.

        Called in the main process only, without gradients; ``module`` is in evaluation mode and holds the moving
        average of the weights.
        """
        return {}
