"""Settings of ``dgkit eval``. A default is stated here and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer

from dgkit.config import Config, Metavar
from dgkit.errors import UsageError, did_you_mean
from dgkit.taxonomy_setting import TaxonomyChoice

if TYPE_CHECKING:
    from dgkit.data.scores import Absent
    from dgkit.evaluation.benchmark.protocols import Protocol

# These do not change predictions (batch: up to rounding), so a run may be resumed with other values.
FREE = frozenset({
    "on", "split", "batch", "workers", "strict", "save_predictions", "worst", "metrics", "classes", "resamples", "seed"
})  # fmt: skip
METRICS = ("accuracy", "boundary", "calibration", "conditions", "sizes")
NEWER = ("metrics", "classes", "resamples", "seed")  # not in files of earlier versions, nor in new ones by default


def _parse_metrics(value: Any) -> Any:
    """Return the metrics in ``"boundary,sizes"``, each once; "all" are all of them. Raises UsageError."""
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        return value
    names = [str(name).strip() for name in given if str(name).strip()]
    unknown = next((name for name in names if name not in (*METRICS, "all")), None)
    if unknown is not None:
        raise UsageError(
            f"unknown metric {unknown!r}; known metrics: {', '.join(METRICS)}, all",
            did_you_mean(unknown, METRICS, "use for example --metrics boundary,sizes"),
        )
    return tuple(name for name in METRICS if name in names or "all" in names)


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
    metrics: Annotated[tuple[str, ...], Metavar("M,M"), BeforeValidator(_parse_metrics)] = Field(
        (), description="Further metrics: accuracy, boundary, calibration, conditions, sizes, or all"
    )
    classes: Literal["all", "present"] = Field("all", description="Classes of the mean: all, or present in the labels")
    resamples: int = Field(2000, ge=1000, le=100_000, description="Resamples of the bootstrap that compares segmenters")
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Random seed of the bootstrap")

    @model_serializer(mode="wrap")
    def _without_new_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the newer settings where they have their defaults, so that reports keep their bytes."""
        values: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        return {
            name: value
            for name, value in values.items()
            if name not in NEWER or getattr(self, name) != fields[name].default
        }

    def resolved_protocol(self) -> Protocol:
        """Return the protocol with the changes of this config.

        Raises UsageError for an unknown protocol, or for constants that do not fit together.
        """
        from dgkit.evaluation.benchmark.protocols import find_protocol

        return find_protocol(self.protocol).changed(self.scale, self.crop, self.stride)

    @property
    def absent(self) -> Absent:
        """How the IoU of classes that are in no label counts."""
        return "zero" if self.classes == "all" else "skip"

    def identity(self) -> dict[str, Any]:
        """Return what must not change when a run is resumed."""
        fixed = {name: value for name, value in self.model_dump(mode="json").items() if name not in FREE}
        from dgkit.taxonomies import find_taxonomy

        if find_taxonomy(self.taxonomy).is_default:  # as in scores of earlier versions
            fixed.pop("taxonomy")
        return {**fixed, "protocol": self.resolved_protocol().to_json()}
