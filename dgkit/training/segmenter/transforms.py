"""Transforms for mmsegmentation's pipelines: they read dgkit's data sets and crop for a class."""

from typing import Any

import numpy as np

from dgkit.data.labelmap import read_label
from dgkit.data.pictures import read_picture
from dgkit.data.samples import Sample
from dgkit.training.segmenter.mm import TRANSFORMS, BaseTransform, RandomCrop

META_KEYS = (
    "img_path", "seg_map_path", "ori_shape", "img_shape", "pad_shape", "scale_factor", "flip", "flip_direction",
    "reduce_zero_label", "origin",
)  # fmt: skip
ATTEMPTS = 10  # greatest number of crops drawn for a rare class. Source: DAFormer, mmseg/datasets/uda_dataset.py


def read_bgr(sample: Sample) -> np.ndarray:
    """Read the image as uint8 [H,W,3] BGR, the channel order of mmsegmentation. Raises InputError."""
    return np.ascontiguousarray(read_picture(str(sample.image))[:, :, ::-1])


@TRANSFORMS.register_module(force=True)
class ReadImage(BaseTransform):
    """Reads the image of ``results["sample"]`` with :func:`read_bgr`, or copies it from ``results["decoded"]``."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the image, its path and its shape to ``results``."""
        sample = results["sample"]
        decoded = results.get("decoded")
        image = read_bgr(sample) if decoded is None else decoded[0].copy()
        results["img"], results["img_path"] = image, str(sample.image)
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results


@TRANSFORMS.register_module(force=True)
class ReadLabel(BaseTransform):
    """Reads the label map of ``results["sample"]`` with dgkit's tables, or copies it from ``results["decoded"]``.

    It is uint8 [H,W], train ids, 255 = ignore.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the label map and its path to ``results``."""
        sample = results["sample"]
        decoded = results.get("decoded")
        label = read_label(sample.label, sample.encoding, sample.taxonomy) if decoded is None else decoded[1]
        results["gt_seg_map"] = label.copy()
        results["seg_map_path"], results["seg_fields"] = str(sample.label), ["gt_seg_map"]
        results["reduce_zero_label"] = False
        return results


@TRANSFORMS.register_module(force=True)
class ClassCrop(RandomCrop):
    """Random crop, redrawn until it has more than ``min_pixels`` of ``results["rare_class"]``, if there is one.

    After :data:`ATTEMPTS` crops the last one is used. Source: DAFormer, mmseg/datasets/uda_dataset.py.
    """

    def __init__(self, min_pixels: float = 0, **crop: Any) -> None:
        super().__init__(**crop)
        self.min_pixels = min_pixels

    def crop_bbox(self, results: dict[str, Any]) -> tuple[int, int, int, int]:
        """Return first and end row, first and end column of the crop."""
        box = super().crop_bbox(results)
        wanted = results.get("rare_class")
        if wanted is None:
            return box
        for _ in range(ATTEMPTS - 1):
            if np.count_nonzero(self.crop(results["gt_seg_map"], box) == wanted) > self.min_pixels:
                break
            box = super().crop_bbox(results)
        return box
