"""Settings of ``dgkit eval``. A default is stated here and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from dgkit.config import Config, Metavar
from dgkit.taxonomy_setting import TaxonomyChoice

if TYPE_CHECKING:
    from dgkit.evaluation.benchmark.protocols import Protocol

# These do not change predictions (batch: up to rounding), so a run may be resumed with other values.
FREE = frozenset({"on", "split", "batch", "workers", "strict", "save_predictions", "worst"})


class EvalConfig(Config):
    """Data sets to evaluate on, protocol, and how the segmenter runs."""

    on: Annotated[tuple[str, ...], Metavar("NAME=DIR")] = Field(
        min_length=1, description="Data set: cityscapes, bdd, mapillary, acdc, darkzurich, camvid; repeatable"
    )
    taxonomy: Annotated[TaxonomyChoice, Metavar("T")] = Field(
        None, description="Classes: camvid11 or FILE.yaml; default: the segmenter's"
    )
    split: Literal["train", "val", "test", "all"] = Field(
        "val", description="Split: train, val, test or all; default: val, or the only one"
    )
    protocol: str = Field("dginstyle", description="Protocol: dginstyle, hrda, half or whole")
    scale: tuple[int, int] | None = Field(
        None, description="Long and short edge that images fit into in pixels; default: the protocol's"
    )
    crop: int | None = Field(None, ge=1, description="Side of the windows in pixels; default: the protocol's")
    stride: int | None = Field(
        None, ge=1, description="Distance between windows in pixels; default: the protocol's, or half of crop if given"
    )
    engine: str = Field("auto", description="auto, torch, compile, ort, openvino or trt; ONNX: ort or openvino")
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = Field("auto", description="auto (fp32), fp32, bf16 or fp16")
    device: str = Field("auto", description="auto (CUDA if available), cpu, cuda or cuda:N")
    tta: bool = Field(False, description="Average with the mirrored image")
    batch: int = Field(4, ge=1, le=256, description="Windows per call; memory use grows with it")
    workers: int | None = Field(None, ge=1, description="Threads that read images; default: one per core")
    strict: bool = Field(True, description="Refuse data sets with bad files instead of skipping the files")
    save_predictions: Annotated[Path | None, Metavar("DIR")] = Field(
        None, description="Folder for predicted label maps: 8-bit PNG files of train ids"
    )
    worst: int = Field(8, ge=0, description="Pictures per data set in the gallery, worst first")

    def resolved_protocol(self) -> Protocol:
        """Return the protocol with the changes of this config.

        Raises UsageError for an unknown protocol, or for constants that do not fit together.
        """
        from dgkit.evaluation.benchmark.protocols import find_protocol

        return find_protocol(self.protocol).changed(self.scale, self.crop, self.stride)

    def identity(self) -> dict[str, Any]:
        """Return what must not change when a run is resumed."""
        fixed = {name: value for name, value in self.model_dump(mode="json").items() if name not in FREE}
        from dgkit.taxonomies import find_taxonomy

        if find_taxonomy(self.taxonomy).is_default:  # as in scores of earlier versions
            fixed.pop("taxonomy")
        return {**fixed, "protocol": self.resolved_protocol().to_json()}
