"""Settings of ``dgkit filter``. A default is stated here and nowhere else."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from dgkit.config import Config, Metavar

MAX_BOUNDARY = 8  # pixels


class FilterConfig(Config):
    """Which pixels filtered labels ignore, and which scenes they leave out."""

    segmenter: Annotated[Path | None, Metavar("ONNX")] = Field(
        None, description="ONNX segmenter with logits, e.g. of dgkit train segmenter"
    )
    threshold: Annotated[float, Metavar("F")] = Field(
        1.25, gt=0, description="Ignore pixels above this multiple of their class's mean loss"
    )
    reference: Annotated[str | None, Metavar("SET")] = Field(
        None, description="Take mean losses from this labelled set, DIR or NAME=DIR"
    )
    boundary: Annotated[int, Metavar("PX")] = Field(
        0, ge=0, le=MAX_BOUNDARY, description="Ignore a band along class boundaries, 0 to 8 pixels"
    )
    min_agreement: Annotated[float | None, Metavar("SHARE")] = Field(
        None, ge=0, le=1, description="Drop scenes with label agreement below this, 0 to 1"
    )
    duplicates: Annotated[int | None, Metavar("BITS")] = Field(
        None, ge=0, le=32, description="Drop near-duplicates: hashes differ in at most BITS of 64"
    )
