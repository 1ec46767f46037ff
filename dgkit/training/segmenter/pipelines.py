"""Preprocessing of source, generated and validation images, as pipelines of mmsegmentation's transforms."""

from typing import Any

import numpy as np

from dgkit.training.segmenter.mm import Compose, init_default_scope
from dgkit.training.segmenter.segmenter_recipe import SegmenterData
from dgkit.training.segmenter.transforms import META_KEYS

SHORT_SIDES = 16  # number of sizes that source images are resized to
LONGEST = 2  # limit of the long side, as a multiple of the largest short side
_READ: list[dict[str, Any]] = [{"type": "ReadImage"}, {"type": "ReadLabel"}]
_PACK = {"type": "PackSegInputs", "meta_keys": META_KEYS}


def source_pipeline(data: SegmenterData) -> Any:
    """Return the pipeline of source images: resize, crop, flip, colour augmentation."""
    rare = data.rare_classes
    crop = {
        "type": "ClassCrop",
        "crop_size": (data.crop, data.crop),
        "cat_max_ratio": data.cat_max_ratio,
        "min_pixels": rare.min_pixels * rare.min_crop_ratio if rare else 0,
    }
    colour = [{"type": "PhotoMetricDistortion"}] if data.colour else []
    resize = _resize(data.source.scale) if data.short_sides is None else [_resize_short(*data.short_sides)]
    return _compose([*_READ, *resize, crop, {"type": "RandomFlip", "prob": 0.5}, *colour, _PACK])


def generated_pipeline(data: SegmenterData) -> Any:
    """Return the pipeline of generated images: resized to the crop size if they have another, never cropped."""
    resize = {"type": "Resize", "scale": (data.crop, data.crop), "keep_ratio": False}
    flip, colour = {"type": "RandomFlip", "prob": 0.5}, {"type": "PhotoMetricDistortion"}
    return _compose([*_READ, resize, flip, colour, _PACK])


def validation_pipeline(scale: tuple[int, int] | None) -> Any:
    """Return the pipeline of whole images resized to fit into ``scale``, with label maps in their own size."""
    read_image, read_label = _READ
    return _compose([read_image, *_resize(scale), read_label, _PACK])


def run_seeded(pipeline: Any, results: dict[str, Any], seed: int) -> dict[str, Any]:
    """Run transforms that use numpy's global generator as a function of ``seed``; its state is restored afterwards."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        return pipeline(results)
    finally:
        np.random.set_state(before)


def _compose(steps: list[dict[str, Any]]) -> Any:
    init_default_scope("mmseg")  # where the names of the steps are looked up
    return Compose(steps)


def _resize(scale: tuple[int, int] | None) -> list[dict[str, Any]]:
    return [{"type": "Resize", "scale": tuple(scale), "keep_ratio": True}] if scale else []


def _resize_short(low: int, high: int) -> dict[str, Any]:
    """Return a resize to a short side of 16 between ``low`` and ``high``. Source: Rein, configs/_base_/datasets."""
    scales = [int(low + (high - low) * step / (SHORT_SIDES - 1)) for step in range(SHORT_SIDES)]
    kind, most = "ResizeShortestEdge", LONGEST * high
    return {"type": "RandomChoiceResize", "scales": scales, "resize_type": kind, "max_size": most}
