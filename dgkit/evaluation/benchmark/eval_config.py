"""Settings of ``dgkit eval``."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from dgkit.config import Config
from dgkit.evaluation.benchmark.protocols import Protocol, find_protocol

# A change of these leaves every prediction as it is (up to rounding, for batch), so a run may be continued with them.
FREE = frozenset({"on", "split", "batch", "workers", "strict", "save_predictions", "worst"})


class EvalConfig(Config):
    """What is evaluated on what, and how."""

    on: tuple[str, ...] = Field(min_length=1)
    """data sets as NAME=DIR"""
    split: Literal["train", "val", "test", "all"] = "val"
    """split of the sets that have splits"""
    protocol: str = "dginstyle"
    """dginstyle, hrda, half or whole"""
    scale: tuple[int, int] | None = None
    """long and short edge in pixels that pictures fit into, for all sets; none: the protocol's"""
    crop: int | None = Field(None, ge=1)
    """side of the windows in pixels; none: the protocol's"""
    stride: int | None = Field(None, ge=1)
    """pixels between windows; none: the protocol's, or half of a crop that is given"""
    engine: str | None = None
    """backend: torch, compile, ort, openvino or trt; none: ort for an ONNX file, else torch"""
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """number format of the network"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    tta: bool = False
    """average the probabilities with those of the mirrored picture"""
    batch: int = Field(4, ge=1, le=256)
    """windows of one call"""
    workers: int | None = Field(None, ge=1)
    """threads that read pictures; none: one for each core"""
    strict: bool = True
    """refuse sets with bad files instead of leaving those files out"""
    save_predictions: Path | None = None
    """folder for the predicted label maps, train ids as 8-bit PNG files"""
    worst: int = Field(8, ge=0)
    """pictures of each set in the gallery: those with the lowest mIoU"""

    def resolved_protocol(self) -> Protocol:
        """UsageError for an unknown one, or constants that do not go together."""
        return find_protocol(self.protocol).changed(self.scale, self.crop, self.stride)

    def identity(self) -> dict[str, Any]:
        """What must not change in a run that is continued."""
        fixed = {name: value for name, value in self.model_dump(mode="json").items() if name not in FREE}
        return {**fixed, "protocol": self.resolved_protocol().to_json()}
