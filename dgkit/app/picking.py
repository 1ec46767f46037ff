"""The label maps offered on the page, and windows of them in the size of the model's images."""

from dataclasses import dataclass, replace

import numpy as np

from dgkit.app.uploads import MAX_MAP_PIXELS
from dgkit.data.crops import CropRules, draw_crop
from dgkit.data.index import build_index
from dgkit.data.labelmap import colorize, resize_label
from dgkit.data.samples import Dataset, Sample
from dgkit.errors import LabelError
from dgkit.generation.city_source import index_world
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.sources import chosen_scale, open_files
from dgkit.progress import Advance

CITY_SCENES = 12  # scenes of the procedural city on the page, unless --world says otherwise
THUMBNAILS = 12  # label maps shown at once
_THUMBNAIL_WIDTH = 176  # pixels


@dataclass(frozen=True)
class MapSource:
    """Label maps to choose from.

    ``rules`` choose the window of a map, as in ``generate``; ``label_height`` is the height in pixels at which the
    model knows label maps, None for any; ``label_scale`` replaces the scale that follows from it.
    """

    dataset: Dataset
    rules: CropRules
    label_height: int | None = None
    label_scale: float | None = None

    def window(self, sample: Sample, number: int = 0) -> np.ndarray:
        """Return window ``number`` (0, 1, ...) of a label map: uint8 train ids in the size of the model's images.

        Raises LabelError for a map that cannot be read, is too large after scaling, or has ignored pixels only.
        """
        alone = replace(self.dataset, samples=(sample,))
        height, width = sample.size()
        scale = chosen_scale(alone, self.label_scale, self.label_height, self.rules.shape)
        if height * scale * width * scale > MAX_MAP_PIXELS:
            raise LabelError(
                f"{sample.label}: {width}x{height} pixels scaled by {scale:.3g}; the limit of this page is "
                f"{MAX_MAP_PIXELS >> 20} Mpx",
                "set another scale with --label-scale",
            )
        return draw_crop(build_index(alone, scale), self.rules, np.random.default_rng(number)).label

    def thumbnails(self, start: int) -> list[tuple[str, np.ndarray | str]]:
        """Return id and coloured map, uint8 [h, w, 3], of up to :data:`THUMBNAILS` samples from ``start`` on.

        In place of a map that cannot be read, the reason.
        """
        return [(sample.id, _thumbnail(sample)) for sample in self.dataset.samples[start : start + THUMBNAILS]]


def open_maps(
    config: GenerateConfig, size: tuple[int, int], label_height: int | None, progress: Advance | None = None
) -> MapSource:
    """Return the label maps that the settings name, or scenes of the procedural city. Raises as ``generate``."""
    dataset = open_files(config)
    if dataset is None:
        scenes = config.model_copy(update={"world": config.world or CITY_SCENES})
        dataset = index_world(scenes, label_height, size, progress).dataset
    rules = CropRules(size, config.min_pixels, config.min_share, config.attempts, config.temperature)
    return MapSource(dataset, rules, label_height, config.label_scale)


def _thumbnail(sample: Sample) -> np.ndarray | str:
    try:
        label = sample.train_ids()
    except LabelError as error:
        return error.message
    height = max(1, round(label.shape[0] * _THUMBNAIL_WIDTH / label.shape[1]))
    return colorize(resize_label(label, min(height, 4 * _THUMBNAIL_WIDTH), _THUMBNAIL_WIDTH))
