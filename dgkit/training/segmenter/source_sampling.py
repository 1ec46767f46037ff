"""Choice of source images for training: uniform, or by class (rare class sampling)."""

from dataclasses import dataclass

import numpy as np

from dgkit.data.crops import CropRules, drawable_classes
from dgkit.data.index import build_index, default_cache
from dgkit.data.samples import Sample
from dgkit.training.data.labelled import select_pairs
from dgkit.training.segmenter.segmenter_recipe import SegmenterData


@dataclass(frozen=True)
class SourceSampler:
    """Draws source samples uniformly or, with class ``probabilities`` [K], a class first.

    ``images_by_class`` holds for each class the indices of the samples that show enough of it.
    """

    samples: tuple[Sample, ...]
    probabilities: np.ndarray | None = None
    images_by_class: tuple[np.ndarray, ...] = ()

    def draw(self, rng: np.random.Generator) -> tuple[Sample, int | None]:
        """Draw a sample and the class that its crop should show, None without class probabilities."""
        if self.probabilities is None:
            return self.samples[int(rng.integers(len(self.samples)))], None
        class_id = int(rng.choice(len(self.probabilities), p=self.probabilities))
        return self.samples[int(rng.choice(self.images_by_class[class_id]))], class_id


def open_source(data: SegmenterData) -> SourceSampler:
    """Open the source set of a training. Raises UsageError, InputError, LabelError."""
    dataset, _ = select_pairs(data.source.open(data.classes))
    if data.rare_classes is None:
        return SourceSampler(dataset.samples)
    index = build_index(dataset, cache=default_cache(dataset))
    rules = CropRules(data.crop, data.rare_classes.min_pixels, min_share=0.0, temperature=data.rare_classes.temperature)
    # As in drawable_classes: if no file is above the threshold, every file with the class counts.
    enough = index.counts > rules.pixel_threshold
    enough = enough if enough.any() else index.counts > 0
    return SourceSampler(dataset.samples, drawable_classes(index, rules), tuple(map(np.flatnonzero, enough.T)))
