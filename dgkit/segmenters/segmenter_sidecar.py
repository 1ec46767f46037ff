"""The YAML side-car of an ONNX segmenter or style classifier: how to feed the network and how to read its outputs."""

from pathlib import Path

import numpy as np
from pydantic import Field

from dgkit.config import Config, load_config


class SegmenterSideCar(Config):
    """Contents of ``NAME.yaml`` next to ``NAME.onnx``. Every key has a default, so the file may be absent.

    The network takes NCHW float images, RGB, (value / 255 - ``mean``) / ``std``.
    """

    layout: str = Field("NCHW, RGB, (value / 255 - mean) / std", description="for readers; not used")
    mean: tuple[float, float, float] = Field((0.485, 0.456, 0.406), description="mean of RGB / 255")
    std: tuple[float, float, float] = Field((0.229, 0.224, 0.225), description="standard deviation of RGB / 255")
    classes: tuple[str, ...] | None = Field(None, description="class name of each output channel; null: the 19 classes")
    multiple_of: int | None = Field(None, ge=1, description="height and width must be multiples of this; null: 32")
    size: int | None = Field(None, ge=1, description="input height and width of a style classifier, in pixels")
    features: str | None = Field(None, description="name of an output [N,D] that describes the whole image")

    def normalize(self, image: np.ndarray) -> np.ndarray:
        """Return float32 [1,3,H,W], the network's input for ``image``, uint8 [H,W,3] RGB."""
        scaled = image.astype(np.float32) / 255
        normal = (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1)[None])


def sidecar_path(model: Path) -> Path:
    """Return the path of the side-car of the ONNX file ``model``."""
    return model.with_suffix(".yaml")


def read_segmenter_sidecar(model: Path) -> SegmenterSideCar:
    """Return the side-car of the ONNX file ``model``, or the defaults if there is none.

    Raises UsageError for unknown keys and InputError for a file that cannot be read.
    """
    path = sidecar_path(model)
    return load_config(SegmenterSideCar, path if path.exists() else None)
