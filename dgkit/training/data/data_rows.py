"""The data of a training: rows of data sets, and how crops are drawn from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from dgkit.config import Config
from dgkit.data.datasets import labels_folder, open_dataset
from dgkit.data.generated import open_generated
from dgkit.data.index import build_index, default_cache
from dgkit.data.layouts import GENERATED, LAYOUTS
from dgkit.data.samples import Dataset
from dgkit.errors import UsageError
from dgkit.files import cache_folder, user_path
from dgkit.progress import Notify, Progress, within
from dgkit.taxonomies import CITYSCAPES19, find_taxonomy, mixed
from dgkit.taxonomy_setting import TaxonomyChoice
from dgkit.training.data.feed import Feed, MixedFeed, PromptDropout
from dgkit.training.data.image_files import CaptionedFeed, ImageFeed, ImageFiles, list_images, read_captions
from dgkit.training.data.labelled import Captions, LabelledFeed, Sampling, select_pairs
from dgkit.training.data.rendered_scenes import SceneSet, render_scenes
from dgkit.training.data.scene_feed import SceneFeed

CITY, FOLDER, IMAGES, CAPTIONED = "city", "labels", "images", "captioned"
KINDS = (CITY, FOLDER, IMAGES, CAPTIONED, *LAYOUTS)


class DataRow(Config):
    """One data set of a training."""

    dataset: str
    """a data set of dgkit (gta, cityscapes, ...); "labels": a folder with labels/ and images/; "images": all .png and
    .jpg files below a folder, without labels; "captioned": a Hugging Face ImageFolder with metadata.jsonl; "city":
    rendered scenes"""
    root: Path | None = None
    """folder of the data set; required except for "city" """
    split: str | None = None
    """train, val, test or all; default: the training split of the data set"""
    rescale: tuple[float, ...] = (1.0,)
    """scale factors; each sample is resized by a random one before it is cropped"""
    weight: float | None = Field(None, ge=0)
    """sampling weight relative to the other rows; default: the number of images"""
    role: str = "source"
    """city only: role to render"""
    count: int = Field(500, ge=1)
    """city only: number of scenes"""
    height: int = Field(256, ge=32)
    """city only: height of a scene in pixels; its width is twice that"""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.dataset not in KINDS:
            raise ValueError(f"unknown data set {self.dataset!r}, allowed: {', '.join(KINDS)}")
        if self.root is None and self.dataset != CITY:
            raise ValueError(f"data set {self.dataset!r} needs root, its folder")
        if not self.rescale or min(self.rescale) <= 0 or max(self.rescale) > 16:
            raise ValueError(
                f"rescale={list(self.rescale)}: at least one factor is needed, each above 0 and at most 16"
            )
        return self

    @property
    def labelled(self) -> bool:
        """Whether the samples have label maps."""
        return self.dataset not in (IMAGES, CAPTIONED)


class FeedConfig(Config):
    """The data of one training."""

    rows: tuple[DataRow, ...] = Field(min_length=1)
    """data sets, sampled by weight"""
    taxonomy: TaxonomyChoice = None
    """classes of the label maps: camvid11 or a YAML file; default: those of Cityscapes"""
    sampling: Sampling = "rare"
    """labelled rows: crops around rare classes, uniform random crops, or centre crops"""
    rare_share: float = Field(1.0, ge=0, le=1)
    """share of crops drawn by rare class sampling; the others are uniform"""
    temperature: float = Field(0.01, gt=0)
    """temperature of the class probabilities in rare class sampling"""
    min_pixels: float | None = Field(None, ge=0)
    """pixels of a class that a label map must exceed; default: 3000, scaled from 512 x 512 to the crop"""
    captions: Captions = "crop"
    """labelled rows: "crop": class names of the crop; "style": the same in a style prompt if the weather of the sample
    is known; "none": empty; "prompt": the prompts that images of dgkit generate were made with, for rows "dgkit"
    alone. Scenes of the city get a style prompt with "crop" too"""
    empty_prompt: float = Field(0.0, ge=0, le=1)
    """share of captions to empty"""
    thin_prompt: float = Field(0.0, ge=0, le=1)
    """share of the other captions that lose some of their class words"""
    skip_mismatched: bool = False
    """skip labelled pairs of different sizes or without an image, instead of an error"""
    cache_latents: bool = False
    """encode every whole image once and cut crops from its latents"""
    workers: int = Field(0, ge=0)
    """worker processes that count classes and render scenes"""

    @property
    def labelled(self) -> bool:
        """Whether all samples have label maps."""
        return all(row.labelled for row in self.rows)


def build_feed(
    config: FeedConfig,
    size: int,
    seed: int,
    cache_dir: Path | None = None,
    *,
    progress: Progress | None = None,
    notify: Notify | None = None,
) -> Feed:
    """Return the feed of crops of ``size`` pixels that ``config`` describes; rendered scenes are kept in ``cache_dir``.

    ``seed`` selects the scenes of city rows; draws depend on their own generator only. ``progress`` reports the
    counting of classes and the rendering of scenes; ``notify`` gets a line about skipped samples. Raises
    :class:`UsageError`, :class:`InputError` and :class:`LabelError` for rows that cannot be used.
    """
    folder = cache_folder() / "training" if cache_dir is None else Path(cache_dir)
    build = _Builder(config, size, seed, folder, progress, notify)
    feeds, counts = zip(*[build.row(row) for row in config.rows], strict=True)
    weights = [count if row.weight is None else row.weight for row, count in zip(config.rows, counts, strict=True)]
    feed: Feed = feeds[0] if len(feeds) == 1 else MixedFeed(feeds, weights)
    if config.empty_prompt or config.thin_prompt:
        feed = PromptDropout(feed, config.empty_prompt, config.thin_prompt)
    return feed


def _prompts(dataset: Dataset) -> dict[str, str]:
    """Return the prompt of each sample of a folder of ``dgkit generate``. Raises UsageError for another data set."""
    if dataset.name != GENERATED:
        raise UsageError(
            f"captions=prompt cannot be used with data set {dataset.name!r}: only rows {GENERATED!r} have prompts",
            "use captions: crop",
        )
    return {str(record["id"]): str(record["prompt"]) for record in open_generated(dataset.root, partial=True).records}


@dataclass(frozen=True)
class _Builder:
    config: FeedConfig
    size: int
    seed: int
    folder: Path
    progress: Progress | None
    notify: Notify | None

    def row(self, row: DataRow) -> tuple[Feed, int]:
        """Return the feed of a row and its number of images."""
        if row.dataset == CITY:
            return self._city(row)
        assert row.root is not None
        root = user_path(row.root)
        if row.dataset == IMAGES:
            files = ImageFiles(list_images(root), self.size, row.rescale)
            return ImageFeed(files), len(files.paths)
        if row.dataset == CAPTIONED:
            paths, captions = read_captions(root / row.split if row.split else root)
            return CaptionedFeed(ImageFiles(paths, self.size, row.rescale), captions), len(paths)
        return self._labelled(row, root)

    def _labelled(self, row: DataRow, root: Path) -> tuple[Feed, int]:
        classes = find_taxonomy(self.config.taxonomy)
        is_folder = row.dataset == FOLDER
        found = labels_folder(root, None, classes) if is_folder else open_dataset(row.dataset, root, row.split, classes)
        dataset, skipped = select_pairs(found, self.config.skip_mismatched)
        if skipped and self.notify:
            self.notify(
                f"skipped {skipped} of {len(found.samples)} pairs of {row.dataset}: image missing or of another size"
            )
        index = None
        if self.config.sampling == "rare" and self.config.rare_share:
            report = within(self.progress, f"classes of {row.dataset}")
            index = build_index(dataset, workers=self.config.workers, cache=default_cache(dataset), progress=report)
        feed = LabelledFeed(
            dataset,
            self.size,
            rescale=row.rescale,
            sampling=self.config.sampling,
            rare_share=self.config.rare_share,
            temperature=self.config.temperature,
            min_pixels=self.config.min_pixels,
            captions=self.config.captions,
            index=index,
            prompts=_prompts(dataset) if self.config.captions == "prompt" else None,
        )
        return feed, len(dataset.samples)

    def _city(self, row: DataRow) -> tuple[Feed, int]:
        if not (classes := find_taxonomy(self.config.taxonomy)).is_default:
            raise mixed(classes, CITYSCAPES19, "the scenes of the city")
        if row.rescale != (1.0,):
            raise UsageError("rows of the city cannot be rescaled", "add a row with another height instead")
        folder = self.folder / "scenes" / f"{row.role}-{self.seed}-{row.height}-{row.count}"
        report = within(self.progress, f"scenes of {row.role}")
        scenes = render_scenes(
            folder, SceneSet(row.role, row.count, self.seed, row.height), self.config.workers, report
        )
        rare = self.config.rare_share if self.config.sampling == "rare" else 0.0
        feed: Feed = SceneFeed([scenes], self.size, rare_share=rare, captions="crop")
        return (PromptDropout(feed, 1.0) if self.config.captions == "none" else feed), row.count
