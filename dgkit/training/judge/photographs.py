"""Labelled photographs as the data of a judge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dgkit.data.datasets import open_dataset
from dgkit.data.index import ClassIndex, build_index, default_cache
from dgkit.data.layouts import ALIASES, LAYOUTS, PAIRS
from dgkit.data.pairs import read_pair
from dgkit.data.samples import Dataset, Sample
from dgkit.errors import UsageError, did_you_mean, shown
from dgkit.files import user_path
from dgkit.taxonomies import CAMVID11, CITYSCAPES19, Taxonomy
from dgkit.training.data.labelled import select_pairs

_OWN_CLASSES = {"camvid": CAMVID11}  # data sets with other classes than those of Cityscapes


class _Read:
    """What ``read`` returns for each of ``samples``, read whenever it is used: a data set may not fit into memory."""

    def __init__(self, samples: Sequence[Sample], read: Callable[[Sample], np.ndarray]) -> None:
        self.samples, self.read = samples, read

    def __getitem__(self, index: int) -> np.ndarray:
        return self.read(self.samples[index])


@dataclass(frozen=True)
class Photographs:
    """The pairs of a data set, read when they are used."""

    dataset: Dataset

    @property
    def taxonomy(self) -> Taxonomy:
        """Classes of the label maps."""
        return self.dataset.taxonomy

    @property
    def images(self) -> _Read:
        """Return the photographs, each uint8 [H,W,3] RGB."""
        return _Read(self.dataset.samples, lambda sample: read_pair(sample)[0])

    @property
    def labels(self) -> _Read:
        """Return the label maps, each uint8 [H,W], class numbers and 255."""
        return _Read(self.dataset.samples, Sample.train_ids)

    def __len__(self) -> int:
        return len(self.dataset.samples)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the label files and their encodings."""
        return self._index.digest

    def class_counts(self) -> np.ndarray:
        """Return the number of pixels of each class in each label map, int64 [N,K]."""
        return self._index.counts

    @cached_property
    def _index(self) -> ClassIndex:
        return build_index(self.dataset, cache=default_cache(self.dataset))


def open_photographs(setting: str, split: str) -> Photographs:
    """Return a split of the data set ``NAME=DIR``; CamVid has its own 11 classes, the others those of Cityscapes.

    Raises UsageError for another text or data set, InputError and LabelError for files that cannot be used.
    """
    name, separator, root = setting.partition("=")
    name = ALIASES.get(name, name)
    known = [one for one in LAYOUTS if one != PAIRS]
    if not separator or not root or name not in known:
        raise UsageError(
            f"real={shown(setting)} does not name a data set of photographs; allowed: NAME=DIR with {', '.join(known)}",
            did_you_mean(name, known, "use for example --real camvid=DIR"),
        )
    dataset, _ = select_pairs(open_dataset(name, user_path(root), split, _OWN_CLASSES.get(name, CITYSCAPES19)))
    return Photographs(dataset)
