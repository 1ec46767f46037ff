"""The YAML side-car of an ONNX segmenter or style classifier: how to feed the network and how to read its outputs."""

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from dgkit.config import Config, load_config
from dgkit.errors import UsageError
from dgkit.taxonomy_setting import TaxonomyChoice

MAX_SIDE = 4096  # pixels; a larger size would need gigabytes for one image
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_NEWER = ("output", "taxonomy", "values")
Triple = tuple[Finite, Finite, Finite]


class SegmenterSideCar(Config):
    """Contents of ``NAME.yaml`` next to ``NAME.onnx``. Every key has a default, so the file may be absent.

    The network takes NCHW float images, RGB, (value / 255 - ``mean``) / ``std``.
    """

    layout: str = Field("NCHW, RGB, (value / 255 - mean) / std", description="for readers; not used")
    mean: Triple = Field((0.485, 0.456, 0.406), description="mean of RGB / 255")
    std: tuple[Positive, Positive, Positive] = Field(
        (0.229, 0.224, 0.225), description="standard deviation of RGB / 255"
    )
    classes: tuple[str, ...] | None = Field(
        None, min_length=1, description="class name of each output channel; null: the 19 classes"
    )
    taxonomy: TaxonomyChoice = Field(None, description="taxonomy of the classes; null: not stated, or the usual one")
    multiple_of: int | None = Field(
        None, ge=1, le=MAX_SIDE, description="height and width must be multiples of this; null: 32"
    )
    size: int | None = Field(
        None, ge=1, le=MAX_SIDE, description="input height and width of a style classifier, in pixels"
    )
    features: str | None = Field(None, description="name of an output [N,D] that describes the whole image")
    output: str | None = Field(None, description="name of the output with logits or class numbers; null: by its shape")

    values: Literal["logits", "scores"] | None = Field(
        None, description="what the output holds: logits, or scores (of query heads, or probabilities); null: logits"
    )

    @field_validator("mean", "std", "multiple_of", "size", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        """Refuse true and false, which Python counts as 1 and 0."""
        if any(isinstance(entry, bool) for entry in (value if isinstance(value, list | tuple) else [value])):
            raise ValueError("true and false are not numbers")
        return value

    def to_json(self) -> dict[str, Any]:
        """Return the values as JSON; newer keys only if they are stated, as in scores of earlier versions."""
        values = self.model_dump(mode="json")
        return {key: value for key, value in values.items() if value is not None or key not in _NEWER}

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

    Raises UsageError for unknown keys and wrong values, InputError for a file that cannot be read; both name the file.
    """
    path = sidecar_path(model)
    try:
        return load_config(SegmenterSideCar, path if path.exists() else None)
    except UsageError as error:
        raise UsageError(f"{path}: {error}", f"correct the file: {error.hint}") from error
