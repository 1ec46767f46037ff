"""Pixels of each class in the labels of a generated folder."""

from dataclasses import dataclass

import numpy as np

from dgkit.data.generated import GeneratedFolder
from dgkit.data.index import build_index, default_cache
from dgkit.data.samples import Dataset, Sample
from dgkit.progress import Advance


@dataclass(frozen=True, eq=False)
class ClassPixels:
    """Pixels of the K classes in each scene, int64 [N,K], and of the whole label, int64 [N]."""

    classes: np.ndarray
    area: np.ndarray

    @property
    def totals(self) -> list[int]:
        """Pixels of each class in all scenes."""
        return [int(count) for count in self.classes.sum(axis=0)]

    @property
    def scenes(self) -> list[int]:
        """Number of scenes that show each class."""
        return [int(count) for count in (self.classes > 0).sum(axis=0)]

    @property
    def ignored_share(self) -> float:
        """Share of the pixels that are ignored, 0..1."""
        area = int(self.area.sum())
        return (area - int(self.classes.sum())) / area if area else 0.0


def count_classes(folder: GeneratedFolder, workers: int = 0, progress: Advance | None = None) -> ClassPixels:
    """Count the pixels of each class in each scene's label, in the order of ``folder.records``.

    Counts are kept in the cache folder, so only new labels are read. Raises LabelError for a file that is not a label
    map.
    """
    root = folder.path.resolve()
    samples = tuple(
        Sample(str(r["id"]), root / r["label"], root / r["image"], "train_ids", taxonomy=folder.taxonomy)
        for r in folder.records
    )
    dataset = Dataset("dgkit", root, "all", samples)
    index = build_index(dataset, workers=workers, cache=default_cache(dataset), progress=progress)
    return ClassPixels(index.counts, index.sizes.astype(np.int64).prod(axis=1))
