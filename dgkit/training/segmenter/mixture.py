"""The training samples: source and generated images, mixed with a stated share."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset as TorchDataset

from dgkit.data.crops import CropRules, drawable_classes
from dgkit.data.datasets import Sample, labels_folder
from dgkit.data.generated import MANIFEST, check_files, list_scenes
from dgkit.data.index import build_index, default_cache
from dgkit.data.labelmap import read_label
from dgkit.labels import CLASSES, PALETTE
from dgkit.training.data.labelled import paired
from dgkit.training.segmenter.mm import DATASETS, Compose, init_default_scope
from dgkit.training.segmenter.segmenter_recipe import LabelledSet, SegmenterData
from dgkit.training.segmenter.transforms import META_KEYS, read_bgr

METAINFO = {"classes": CLASSES, "palette": PALETTE.tolist()}


def find_generated(folder: Path, verify: bool = True, filtered: bool = False) -> tuple[Sample, ...]:
    """Return the samples of a folder of generated images, with the labels of ``dgkit filter`` if ``filtered``.

    With a manifest they are those that it lists; with ``verify`` each file must have the SHA-256 stated there. A folder
    without a manifest (images/ and labels/ of train ids, 19 and 255 ignored) is taken as it is. Raises InputError
    naming files that are missing or differ.
    """
    folder = folder.expanduser()
    if not filtered and not (folder / MANIFEST).exists():
        return paired(labels_folder(folder))[0].samples
    scenes = list_scenes(folder, filtered=filtered)
    check_files(folder, scenes, digests=verify)
    return tuple(scene.sample for scene in scenes)


@dataclass(frozen=True)
class SourceDraw:
    """How source samples are chosen: uniformly, or by class where ``probabilities`` [19] is stated."""

    samples: tuple[Sample, ...]
    probabilities: np.ndarray | None = None
    holders: tuple[np.ndarray, ...] = ()

    def draw(self, rng: np.random.Generator) -> tuple[Sample, int | None]:
        """A sample and the class that its crop is to show."""
        if self.probabilities is None:
            return self.samples[int(rng.integers(len(self.samples)))], None
        class_id = int(rng.choice(len(self.probabilities), p=self.probabilities))
        return self.samples[int(rng.choice(self.holders[class_id]))], class_id


def open_source(data: SegmenterData) -> SourceDraw:
    """The source set of a training. Raises UsageError, InputError, LabelError."""
    dataset, _ = paired(data.source.open())
    if data.rare_classes is None:
        return SourceDraw(dataset.samples)
    index = build_index(dataset, cache=default_cache(dataset))
    rules = CropRules(data.crop, data.rare_classes.min_pixels, min_share=0.0, temperature=data.rare_classes.temperature)
    # As in drawable_classes: a set without any file above the threshold takes every file with the class.
    enough = index.counts > rules.pixel_threshold
    enough = enough if enough.any() else index.counts > 0
    return SourceDraw(dataset.samples, drawable_classes(index, rules), tuple(map(np.flatnonzero, enough.T)))


@DATASETS.register_module(force=True)
class SourceAndGenerated(TorchDataset[dict[str, Any]]):
    """``length`` samples for mmsegmentation, each a pure function of ``seed`` and its index.

    ``data`` is a dumped :class:`~dgkit.training.segmenter.segmenter_recipe.SegmenterData`.
    A sample is generated with probability
    ``data.share``; its metainfo says so under "origin". Source images are resized, cropped, flipped and disturbed in
    colour, generated ones only flipped and disturbed.
    """

    metainfo = METAINFO

    def __init__(self, data: dict[str, Any], seed: int, length: int) -> None:
        self.data, self.seed, self.length = SegmenterData.model_validate(data), seed, length
        self.source = open_source(self.data)
        self.generated = tuple(
            sample
            for folder in self.data.generated
            for sample in find_generated(folder, self.data.verify, self.data.filtered)
        )
        self.share = self.data.generated_share
        self._decoded = decode((*self.source.samples, *self.generated)) if self.data.cache else {}
        self._pipelines = {
            "source": _pipeline(source_steps(self.data)),
            "generated": _pipeline(generated_steps(self.data)),
        }

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, int(index)])
        results: dict[str, Any] = {"origin": "generated" if rng.random() < self.share else "source"}
        if results["origin"] == "generated":
            results["sample"] = self.generated[int(rng.integers(len(self.generated)))]
        else:
            results["sample"], results["rare_class"] = self.source.draw(rng)
        return self._transformed(results, rng)

    def source_crop(self, sample: Sample, rng: np.random.Generator) -> dict[str, Any]:
        """A sample of the source as in training, but for its crop, which is drawn without regard to rare classes."""
        return self._transformed({"origin": "source", "sample": sample}, rng)

    def _transformed(self, results: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        results["decoded"] = self._decoded.get(results["sample"])
        return _seeded(self._pipelines[results["origin"]], results, int(rng.integers(2**32)))


class SourceCrops(TorchDataset[dict[str, Any]]):
    """``count`` crops of the source of ``mixture``, each picture once before any twice, rare or not.

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
    """All pictures of a labelled set, for validation: resized, the label maps as they are.

    ``labelled`` is a dumped :class:`~dgkit.training.segmenter.segmenter_recipe.LabelledSet`.
    """

    metainfo = METAINFO

    def __init__(self, labelled: dict[str, Any]) -> None:
        chosen = LabelledSet.model_validate(labelled)
        self.samples = paired(chosen.open())[0].samples
        resized = [_resized(chosen.scale)] if chosen.scale else []
        self._pipeline = _pipeline([{"type": "ReadImage"}, *resized, {"type": "ReadLabel"}, _packed()])

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._pipeline({"sample": self.samples[index], "origin": "val"})


def decode(samples: Sequence[Sample]) -> dict[Sample, tuple[np.ndarray, np.ndarray]]:
    """(uint8 [H,W,3] BGR, uint8 [H,W] train ids) of each sample, read in parallel. Raises InputError."""
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda sample: (read_bgr(sample), read_label(sample.label, sample.encoding)), samples)
        return dict(zip(samples, found, strict=True))


def source_steps(data: SegmenterData) -> list[dict[str, Any]]:
    """What happens to a source image, as configs of mmsegmentation's transforms."""
    rare = data.rare_classes
    return [
        {"type": "ReadImage"},
        {"type": "ReadLabel"},
        *([_resized(data.source.scale)] if data.source.scale else []),
        {
            "type": "ClassCrop",
            "crop_size": (data.crop, data.crop),
            "cat_max_ratio": data.cat_max_ratio,
            "min_pixels": rare.min_pixels * rare.min_crop_ratio if rare else 0,
        },
        {"type": "RandomFlip", "prob": 0.5},
        *([{"type": "PhotoMetricDistortion"}] if data.colour else []),
        _packed(),
    ]


def generated_steps(data: SegmenterData) -> list[dict[str, Any]]:
    """What happens to a generated image: it is brought to the crop's size where it has another, never cut."""
    return [
        {"type": "ReadImage"},
        {"type": "ReadLabel"},
        {"type": "Resize", "scale": (data.crop, data.crop), "keep_ratio": False},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PhotoMetricDistortion"},
        _packed(),
    ]


def _pipeline(steps: list[dict[str, Any]]) -> Any:
    init_default_scope("mmseg")  # where the names of the steps are looked up
    return Compose(steps)


def _resized(scale: tuple[int, int]) -> dict[str, Any]:
    return {"type": "Resize", "scale": tuple(scale), "keep_ratio": True}


def _packed() -> dict[str, Any]:
    return {"type": "PackSegInputs", "meta_keys": META_KEYS}


def _seeded(pipeline: Any, results: dict[str, Any], seed: int) -> dict[str, Any]:
    """Run transforms that draw from numpy's global generator as a function of ``seed``; leave that as it was."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        return pipeline(results)
    finally:
        np.random.set_state(before)
