"""Data sets for mmsegmentation: source and generated images in a stated ratio, and whole images for validation."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset as TorchDataset

from dgkit.data.datasets import labels_folder
from dgkit.data.generated import MANIFEST, check_files, list_scenes
from dgkit.data.labelmap import read_label
from dgkit.data.samples import Sample
from dgkit.files import user_path
from dgkit.taxonomies import CITYSCAPES19, Taxonomy, find_taxonomy
from dgkit.training.data.labelled import select_pairs
from dgkit.training.segmenter.mm import DATASETS
from dgkit.training.segmenter.pipelines import generated_pipeline, run_seeded, source_pipeline, validation_pipeline
from dgkit.training.segmenter.segmenter_recipe import LabelledSet, SegmenterData
from dgkit.training.segmenter.source_sampling import open_source
from dgkit.training.segmenter.transforms import read_bgr


def set_facts(taxonomy: Taxonomy) -> dict[str, Any]:
    """Return the metainfo of a set of mmsegmentation, which its checkpoints keep: classes, palette, own taxonomy."""
    own = {} if taxonomy.is_default else {"taxonomy": taxonomy.document()}
    return {"classes": taxonomy.names, "palette": taxonomy.palette.tolist(), **own}


def find_generated(
    folder: Path, verify: bool = True, filtered: bool = False, taxonomy: Taxonomy = CITYSCAPES19
) -> tuple[Sample, ...]:
    """Return the samples of a folder of generated images, with the labels of ``dgkit filter`` if ``filtered``.

    With a manifest they are those that it lists; with ``verify`` each file must have the SHA-256 stated there. A folder
    without a manifest (images/ and labels/ of train ids, 19 and 255 ignored) is taken as it is. Raises InputError
    naming files that are missing or differ, or the difference between its classes and ``taxonomy``.
    """
    folder = user_path(folder)
    if not filtered and not (folder / MANIFEST).exists():
        return select_pairs(labels_folder(folder, None, taxonomy))[0].samples
    scenes = list_scenes(folder, filtered=filtered, taxonomy=taxonomy)
    check_files(folder, scenes, digests=verify)
    return tuple(scene.sample for scene in scenes)


@DATASETS.register_module(force=True)
class SourceAndGenerated(TorchDataset[dict[str, Any]]):
    """``length`` samples for mmsegmentation, each a pure function of ``seed`` and its index.

    ``data`` is a dumped :class:`~dgkit.training.segmenter.segmenter_recipe.SegmenterData`. A sample is generated with
    probability ``data.share``; "origin" in its metainfo is "source" or "generated". Source images are resized, cropped,
    flipped and augmented in colour, generated ones only flipped and augmented in colour.
    """

    def __init__(self, data: dict[str, Any], seed: int, length: int) -> None:
        self.data, self.seed, self.length = SegmenterData.model_validate(data), seed, length
        self.metainfo = set_facts(self.data.classes)
        self.source = open_source(self.data)
        self.generated = tuple(
            sample
            for folder in self.data.generated
            for sample in find_generated(folder, self.data.verify, self.data.filtered, self.data.classes)
        )
        self.share = self.data.generated_share
        self._decoded = decode((*self.source.samples, *self.generated)) if self.data.cache else {}
        self._pipelines = {"source": source_pipeline(self.data), "generated": generated_pipeline(self.data)}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, int(index)])
        results: dict[str, Any] = {"origin": "generated" if rng.random() < self.share else "source"}
        if results["origin"] == "generated":
            results["sample"] = self.generated[int(rng.integers(len(self.generated)))]
        else:
            results["sample"], results["rare_class"] = self.source.draw(rng)
        return self._transform(results, rng)

    def source_crop(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        """Return a crop of a source image, preprocessed as in training but without regard to rare classes."""
        return self._transform({"origin": "source", "sample": sample}, rng)

    def _transform(self, results: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        results["decoded"] = self._decoded.get(results["sample"])
        return run_seeded(self._pipelines[results["origin"]], results, int(rng.integers(2**32)))


class SourceCrops(TorchDataset[dict[str, Any]]):
    """``count`` crops of the source images of ``mixture``: every image once before any is repeated.

    Each is a pure function of the mixture's seed, ``turn`` and its index.
    """

    def __init__(self, mixture: SourceAndGenerated, turn: int, count: int) -> None:
        self.mixture, self.turn, self.count = mixture, turn, count
        self._order = np.random.default_rng([mixture.seed, turn, 0]).permutation(len(mixture.source.samples))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.mixture.source.samples[int(self._order[index % len(self._order)])]
        return self.mixture.source_crop(sample, np.random.default_rng([self.mixture.seed, self.turn, 1, int(index)]))


@DATASETS.register_module(force=True)
class WholeImages(TorchDataset[dict[str, Any]]):
    """All images of a labelled set for validation: the image resized, the label map in its own size.

    ``labelled`` is a dumped :class:`~dgkit.training.segmenter.segmenter_recipe.LabelledSet`, of label maps with the
    classes of ``taxonomy``.
    """

    def __init__(self, labelled: dict[str, Any], taxonomy: str | dict[str, Any] | None = None) -> None:
        chosen, classes = LabelledSet.model_validate(labelled), find_taxonomy(taxonomy)
        self.metainfo = set_facts(classes)
        self.samples = select_pairs(chosen.open(classes))[0].samples
        self._pipeline = validation_pipeline(chosen.scale)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._pipeline({"sample": self.samples[index], "origin": "val"})


def decode(samples: Sequence[Sample]) -> dict[Sample, tuple[np.ndarray, np.ndarray]]:
    """Read all samples in parallel: (uint8 [H,W,3] BGR, uint8 [H,W] train ids) of each. Raises InputError."""
    with ThreadPoolExecutor() as pool:
        found = pool.map(
            lambda sample: (read_bgr(sample), read_label(sample.label, sample.encoding, sample.taxonomy)), samples
        )
        return dict(zip(samples, found, strict=True))
