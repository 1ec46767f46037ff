"""Crops of labelled data sets: around rare classes, uniform or in the centre, with the names of their classes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from dgkit.data.crops import CropRules, crop, drawable_classes
from dgkit.data.datasets import Dataset, Sample, check_pairs, mismatched_pairs
from dgkit.data.index import ClassIndex, build_index
from dgkit.data.labelmap import read_label, resize_label
from dgkit.errors import InputError, LabelError
from dgkit.prompts import NO_STYLE, caption, compose
from dgkit.training.data.feed import Example, Latents, Picture, place
from dgkit.training.data.image_files import ImageFiles, scaled

Sampling = Literal["rare", "uniform", "centre"]
Captions = Literal["crop", "style", "none"]
_STYLES = {"fog": "foggy", "rain": "rainy", "snow": "snowy", "night": "night"}  # conditions of data sets


class LabelledFeed:
    """Crops of the pairs of ``dataset``, as DGInStyle draws them (controlnet/dataset_GTA.py).

    ``sampling="rare"``: a class by P(c) ~ exp((1 - f_c) / T), a file with more than ``min_pixels`` of it (``None``:
    3000 scaled from 512 x 512 to the crop), a pixel of it, the crop centred there as far as the border lets it; no
    share of the class is asked for. ``rare_share`` of the crops are drawn so, the others uniformly. File counts and
    class shares are those before ``rescale``. Photographs are resized bilinearly, label maps by nearest neighbour. A
    map smaller than the crop is continued with 255, its photograph by reflection.

    ``captions``: names of the classes in the crop; with "style" in a style prompt where the data set states fog, rain,
    snow or night; "none" leaves them empty.
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
    ) -> None:
        self.dataset, self.size, self.sampling, self.captions = dataset, size, sampling, captions
        self.files = ImageFiles(tuple(_photograph(sample) for sample in dataset.samples), size, rescale)
        self.rare_share = rare_share if sampling == "rare" else 0.0
        if self.rare_share:
            index = index or build_index(dataset)
            rules = CropRules(size, min_pixels, min_share=0.0, temperature=temperature)
            self.probabilities = drawable_classes(index, rules)
            # As in drawable_classes: a set without any file above the threshold takes every file with the class.
            enough = index.counts > rules.pixel_threshold
            enough = enough if enough.any() else index.counts > 0
            self.holders = [np.flatnonzero(column) for column in enough.T]

    def draw(self, rng: np.random.Generator) -> Example:
        number, class_id = self._pick(rng)
        factor = self.files.draw_factor(rng)
        sample = self.dataset.samples[number]
        label = read_label(sample.label, sample.encoding)
        shape = scaled(label.shape, factor)
        box = place(shape, self.size, self.files.grid, rng, self._anchor(sample, label, class_id, shape, rng))
        label = crop(resize_label(label, *shape), box)
        image, moments = self.files.cut(number, factor, box)
        style = _STYLES.get(sample.condition, NO_STYLE)
        return Example(image, moments, label, self._caption(label, style), style, str(sample.label))

    def pictures(self) -> Sequence[Picture]:
        return self.files.pictures()

    def with_latents(self, latents: Latents, pixels: bool = False) -> LabelledFeed:
        feed = copy.copy(self)
        feed.files = self.files.with_latents(latents, pixels)
        return feed

    def _pick(self, rng: np.random.Generator) -> tuple[int, int | None]:
        """Number of a sample, and the class that its crop is to show."""
        if not self.rare_share or (self.rare_share < 1 and rng.random() >= self.rare_share):
            return int(rng.integers(len(self.dataset.samples))), None
        class_id = int(rng.choice(len(self.probabilities), p=self.probabilities))
        return int(rng.choice(self.holders[class_id])), class_id

    def _anchor(
        self, sample: Sample, label: np.ndarray, class_id: int | None, shape: tuple[int, int], rng: np.random.Generator
    ) -> tuple[int, int] | None:
        """Row and column, in the map resized to ``shape``, that the crop is centred on; ``None`` for a uniform crop."""
        if class_id is None:
            return (shape[0] // 2, shape[1] // 2) if self.sampling == "centre" else None
        pixels = np.flatnonzero(label == class_id)
        if not len(pixels):
            raise LabelError(f"{sample.label} changed after its classes were counted", "run the command again")
        height, width = label.shape
        y, x = divmod(int(pixels[rng.integers(len(pixels))]), width)
        # Drawn before resizing: a thin object may have no pixel left after it.
        return (2 * y + 1) * shape[0] // (2 * height), (2 * x + 1) * shape[1] // (2 * width)

    def _caption(self, label: np.ndarray, style: str) -> str:
        if self.captions == "none":
            return ""
        names = caption(label)
        return compose(names, style) if self.captions == "style" else names


def _photograph(sample: Sample) -> Path:
    if sample.image is None:
        raise LabelError(f"{sample.label}: its photograph was not found", "complete the download of the images")
    return sample.image


def paired(dataset: Dataset, skip_mismatched: bool = False) -> tuple[Dataset, int]:
    """The samples whose photograph is there and has the size of its label map, and how many were left out.

    Without ``skip_mismatched`` nothing may be left out. Headers are read, not pixels. Raises :class:`LabelError` naming
    pairs that differ, :class:`InputError` if photographs are absent or no pair is left.
    """
    absent = [sample for sample in dataset.samples if sample.image is None]
    if not skip_mismatched:
        if absent:
            raise InputError(
                f"{len(absent)} of {len(dataset.samples)} label maps have no photograph, for example {absent[0].label}",
                "complete the download of the images, or train on the rest with skip_mismatched: true",
            )
        check_pairs(dataset)
        return dataset, 0
    usable = tuple(s for s in dataset.samples if s.image and not mismatched_pairs(replace(dataset, samples=(s,))))
    if not usable:
        raise InputError(f"no label map below {dataset.root} has a photograph of its size", "check the images")
    return replace(dataset, samples=usable), len(dataset.samples) - len(usable)
