"""Steps of mmsegmentation's pipelines that read dgkit's data sets and crop for a class."""

from typing import Any

import numpy as np

from dgkit.data.datasets import Sample
from dgkit.data.labelmap import read_label
from dgkit.data.pictures import read_picture
from dgkit.training.segmenter.mm import TRANSFORMS, BaseTransform, RandomCrop

META_KEYS = (
    "img_path", "seg_map_path", "ori_shape", "img_shape", "pad_shape", "scale_factor", "flip", "flip_direction",
    "reduce_zero_label", "origin",
)  # fmt: skip
ATTEMPTS = 10  # crops drawn for a rare class. Source: DAFormer, mmseg/datasets/uda_dataset.py


def read_bgr(sample: Sample) -> np.ndarray:
    """The photograph as uint8 [H,W,3] BGR, mmsegmentation's order of channels. Raises InputError."""
    return np.ascontiguousarray(read_picture(str(sample.image))[:, :, ::-1])


@TRANSFORMS.register_module(force=True)
class ReadImage(BaseTransform):
    """The photograph of ``results["sample"]`` as :func:`read_bgr` gives it, or the copy in ``results["decoded"]``."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        sample = results["sample"]
        decoded = results.get("decoded")
        image = read_bgr(sample) if decoded is None else decoded[0].copy()
        results["img"], results["img_path"] = image, str(sample.image)
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results


@TRANSFORMS.register_module(force=True)
class ReadLabel(BaseTransform):
    """The label map of ``results["sample"]`` by dgkit's own tables, or the copy in ``results["decoded"]``.

    uint8 [H,W] train ids, 255 ignore.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        sample = results["sample"]
        decoded = results.get("decoded")
        label = read_label(sample.label, sample.encoding) if decoded is None else decoded[1]
        results["gt_seg_map"] = label.copy()
        results["seg_map_path"], results["seg_fields"] = str(sample.label), ["gt_seg_map"]
        results["reduce_zero_label"] = False
        return results


@TRANSFORMS.register_module(force=True)
class ClassCrop(RandomCrop):
    """A random crop, drawn again until it has more than ``min_pixels`` of ``results["rare_class"]``, if that is stated.

    After :data:`ATTEMPTS` crops the last one is taken. Source: DAFormer, mmseg/datasets/uda_dataset.py.
    """

    def __init__(self, min_pixels: float = 0, **crop: Any) -> None:
        super().__init__(**crop)
        self.min_pixels = min_pixels

    def crop_bbox(self, results: dict[str, Any]) -> tuple[int, int, int, int]:
        """First and end row, first and end column of the crop."""
        box = super().crop_bbox(results)
        wanted = results.get("rare_class")
        if wanted is None:
            return box
        for _ in range(ATTEMPTS - 1):
            if np.count_nonzero(self.crop(results["gt_seg_map"], box) == wanted) > self.min_pixels:
                break
            box = super().crop_bbox(results)
        return box
