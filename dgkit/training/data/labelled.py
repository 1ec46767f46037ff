"""Crops of labelled data sets: around rare classes, uniform or central, with class names as captions."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from dgkit.data.crops import CropRules, crop, drawable_classes
from dgkit.data.index import ClassIndex, build_index
from dgkit.data.labelmap import read_label, resize_label
from dgkit.data.pairs import check_pairs, mismatched_pairs
from dgkit.data.samples import Dataset, Sample
from dgkit.errors import InputError, LabelError
from dgkit.prompts import caption, compose
from dgkit.styles import NO_STYLE
from dgkit.training.data.feed import Example, LatentSource, WholeImage, place_crop
from dgkit.training.data.image_files import ImageFiles, scaled

Sampling = Literal["rare", "uniform", "centre"]
Captions = Literal["crop", "style", "none", "prompt"]
_STYLES = {"fog": "foggy", "rain": "rainy", "snow": "snowy", "night": "night"}  # condition of a sample -> style word


class LabelledFeed:
    """Crops of the pairs of ``dataset``, drawn as in DGInStyle (controlnet/dataset_GTA.py).

    ``sampling="rare"`` draws a class with P(c) ~ exp((1 - f_c) / T), a file with more than ``min_pixels`` of it
    (``None``: 3000, scaled from 512 x 512 to the crop), and a pixel of it; the crop is centred there as far as the
    border allows, with no minimum share of the class. ``rare_share`` of the crops are drawn this way, the others
    uniformly. Pixels are counted before ``rescale``. Images are resized bilinearly, label maps by nearest neighbour. A
    label map smaller than the crop is padded with 255, its image by reflection.

    ``captions``: "crop" names the classes in the crop; "style" puts them into a style prompt if the data set states
    fog, rain, snow or night; "none" leaves captions empty; "prompt" takes them from ``prompts``, by the id of the
    sample.
    """

    def __init__(
        self,
        dataset: Dataset,
        size: int,
        *,
        rescale: tuple[float, ...] = (1.0,),
        sampling: Sampling = "rare",
        rare_share: float = 1.0,
        temperature: float = 0.01,
        min_pixels: float | None = None,
        captions: Captions = "crop",
        index: ClassIndex | None = None,
        prompts: Mapping[str, str] | None = None,
    ) -> None:
        self.prompts = prompts or {}
        self.dataset, self.size, self.sampling, self.captions = dataset, size, sampling, captions
        self.files = ImageFiles(tuple(_image_path(sample) for sample in dataset.samples), size, rescale)
        self.rare_share = rare_share if sampling == "rare" else 0.0
        if self.rare_share:
            index = index or build_index(dataset)
            rules = CropRules(size, min_pixels, min_share=0.0, temperature=temperature)
            self.probabilities = drawable_classes(index, rules)
            # As in drawable_classes: without any file above the threshold, every file with the class counts.
            enough = index.counts > rules.pixel_threshold
            enough = enough if enough.any() else index.counts > 0
            self.files_by_class = [np.flatnonzero(column) for column in enough.T]

    def draw(self, rng: np.random.Generator) -> Example:
        """Return a crop of a pair, drawn by the sampling of the feed."""
        number, class_id = self._pick(rng)
        factor = self.files.draw_factor(rng)
        sample = self.dataset.samples[number]
        label = read_label(sample.label, sample.encoding, sample.taxonomy)
        shape = scaled(label.shape, factor)
        box = place_crop(shape, self.size, self.files.grid, rng, self._anchor(sample, label, class_id, shape, rng))
        frame = (*label.shape[:2], box.y, box.x)
        label = crop(resize_label(label, *shape), box)
        image, moments = self.files.cut(number, factor, box)
        style = _STYLES.get(sample.condition, NO_STYLE)
        return Example(image, moments, label, self._caption(label, style, sample.id), style, str(sample.label), frame)

    def whole_images(self) -> Sequence[WholeImage]:
        """Return every image at every factor."""
        return self.files.whole_images()

    def with_latents(self, latents: LatentSource, pixels: bool = False) -> LabelledFeed:
        """Return the same feed with crops cut from ``latents``."""
        feed = copy.copy(self)
        feed.files = self.files.with_latents(latents, pixels)
        return feed

    def _pick(self, rng: np.random.Generator) -> tuple[int, int | None]:
        """Return the index of a sample and the class to centre its crop on, ``None`` for no class."""
        if not self.rare_share or (self.rare_share < 1 and rng.random() >= self.rare_share):
            return int(rng.integers(len(self.dataset.samples))), None
        class_id = int(rng.choice(len(self.probabilities), p=self.probabilities))
        return int(rng.choice(self.files_by_class[class_id])), class_id

    def _anchor(
        self, sample: Sample, label: np.ndarray, class_id: int | None, shape: tuple[int, int], rng: np.random.Generator
    ) -> tuple[int, int] | None:
        """Return row and column of the crop's centre in the map resized to ``shape``; ``None`` for a uniform crop."""
        if class_id is None:
            return (shape[0] // 2, shape[1] // 2) if self.sampling == "centre" else None
        pixels = np.flatnonzero(label == class_id)
        if not len(pixels):
            raise LabelError(f"{sample.label} changed after its classes were counted", "run the command again")
        height, width = label.shape
        y, x = divmod(int(pixels[rng.integers(len(pixels))]), width)
        # Drawn before resizing, which may remove all pixels of a thin object.
        return (2 * y + 1) * shape[0] // (2 * height), (2 * x + 1) * shape[1] // (2 * width)

    def _caption(self, label: np.ndarray, style: str, name: str) -> str:
        if self.captions in ("none", "prompt"):
            return self.prompts.get(name, "")
        names = caption(label, self.dataset.taxonomy.prompt_names)
        return compose(names, style) if self.captions == "style" else names


def _image_path(sample: Sample) -> Path:
    if sample.image is None:
        raise LabelError(f"{sample.label} has no image", "complete the download of the images")
    return sample.image


def select_pairs(dataset: Dataset, skip_mismatched: bool = False) -> tuple[Dataset, int]:
    """Return the samples that have an image of the size of their label map, and the number of samples skipped.

    Only headers are read. Without ``skip_mismatched``, raises :class:`LabelError` for pairs of different sizes and
    :class:`InputError` for missing images; with it, :class:`InputError` if no pair remains.
    """
    missing = [sample for sample in dataset.samples if sample.image is None]
    if not skip_mismatched:
        if missing:
            raise InputError(
                f"{len(missing)} of {len(dataset.samples)} label maps have no image, for example {missing[0].label}",
                "complete the download of the images, or train on the rest with skip_mismatched: true",
            )
        check_pairs(dataset)
        return dataset, 0
    usable = tuple(s for s in dataset.samples if s.image and not mismatched_pairs(replace(dataset, samples=(s,))))
    if not usable:
        raise InputError(
            f"no label map below {dataset.root} has an image of its size", "check the folder of the images"
        )
    return replace(dataset, samples=usable), len(dataset.samples) - len(usable)
