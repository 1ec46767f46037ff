"""Which data a training reads: rows of data sets and how crops are drawn from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from dgkit.config import Config
from dgkit.data.datasets import labels_folder, open_dataset
from dgkit.data.index import build_index, default_cache
from dgkit.data.layouts import LAYOUTS
from dgkit.errors import UsageError
from dgkit.files import cache_folder
from dgkit.progress import Notify, Progress, within
from dgkit.training.data.feed import Feed, MixedFeed, PromptDropout
from dgkit.training.data.image_files import CaptionedFeed, ImageFeed, ImageFiles, list_images, read_captions
from dgkit.training.data.labelled import LabelledFeed, paired
from dgkit.training.data.rendered_scenes import SceneFeed, render_scenes

CITY, FOLDER, IMAGES, CAPTIONED = "city", "labels", "images", "captioned"
KINDS = (CITY, FOLDER, IMAGES, CAPTIONED, *LAYOUTS)


class Row(Config):
    """One data set of a training."""

    dataset: str
    """a data set of dgkit (gta, cityscapes, ...); "labels": a folder with labels/ and images/; "images": every .png and
    .jpg below a folder, without labels; "captioned": a Hugging Face ImageFolder with metadata.jsonl; "city": drawn"""
    root: Path | None = None
    """folder of the data set; required for all but "city" """
    split: str | None = None
    """train, val, test or all; left out: the split that the data set is trained on"""
    rescale: tuple[float, ...] = (1.0,)
    """factors of which each sample draws one; image and label map are resized by it before the crop"""
    weight: float | None = Field(None, ge=0)
    """how often the row is drawn, relative to the others; left out: its number of images"""
    role: str = "source"
    """city only: role that is rendered"""
    count: int = Field(500, ge=1)
    """city only: number of scenes"""
    height: int = Field(256, ge=32)
    """city only: height of a scene, pixels; it is twice as wide"""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.dataset not in KINDS:
            raise ValueError(f"unknown data set {self.dataset!r}, allowed: {', '.join(KINDS)}")
        if self.root is None and self.dataset != CITY:
            raise ValueError(f"data set {self.dataset!r} needs root, the folder it is in")
        if not self.rescale or min(self.rescale) <= 0 or max(self.rescale) > 16:
            raise ValueError(f"rescale factors {self.rescale}: at least one, each above 0 and at most 16")
        return self

    @property
    def labelled(self) -> bool:
        """Whether its samples have label maps; those of the city always have."""
        return self.dataset not in (IMAGES, CAPTIONED)


class FeedConfig(Config):
    """The data of one training."""

    rows: tuple[Row, ...] = Field(min_length=1)
    """data sets, drawn by weight"""
    sampling: Literal["rare", "uniform", "centre"] = "rare"
    """labelled rows: crops around rare classes, uniform random crops, or centre crops"""
    rare_share: float = Field(1.0, ge=0, le=1)
    """share of crops drawn by rare class sampling where sampling is rare; the rest is uniform"""
    temperature: float = Field(0.01, gt=0)
    """of the class probabilities"""
    min_pixels: float | None = Field(None, ge=0)
    """a label map serves a class if it has more pixels of it; left out: 3000, scaled from 512 x 512 to the crop"""
    captions: Literal["crop", "style", "none"] = "crop"
    """labelled rows: class names of the crop; the same in a style prompt where the sample's weather is known (scenes of
    the city: always); empty"""
    empty_prompt: float = Field(0.0, ge=0, le=1)
    """share of captions that are emptied"""
    thin_prompt: float = Field(0.0, ge=0, le=1)
    """share of the other captions that lose some of their words"""
    skip_mismatched: bool = False
    """leave out labelled pairs whose sizes differ or whose photograph is absent, instead of an error"""
    cache_latents: bool = False
    """encode every whole image once and cut crops from the latents"""
    workers: int = Field(0, ge=0)
    """processes that count classes and render scenes"""

    @property
    def labelled(self) -> bool:
        """Whether every sample has a label map."""
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
    """The feed of crops of ``size`` pixels that ``config`` describes; what is made on the way is kept in ``cache_dir``.

    ``seed`` chooses the scenes that rows of the city render; draws depend on their own generator only. ``progress`` is
    called with (what, done, total) while classes are counted and scenes rendered; ``notify`` with a line about samples
    left out. Raises :class:`UsageError`, :class:`InputError` and :class:`LabelError` for rows that cannot be used.
    """
    folder = cache_folder() / "training" if cache_dir is None else Path(cache_dir)
    build = _Builder(config, size, seed, folder, progress, notify)
    feeds, counts = zip(*[build.row(row) for row in config.rows], strict=True)
    weights = [count if row.weight is None else row.weight for row, count in zip(config.rows, counts, strict=True)]
    feed: Feed = feeds[0] if len(feeds) == 1 else MixedFeed(feeds, weights)
    if config.empty_prompt or config.thin_prompt:
        feed = PromptDropout(feed, config.empty_prompt, config.thin_prompt)
    return feed


@dataclass(frozen=True)
class _Builder:
    config: FeedConfig
    size: int
    seed: int
    folder: Path
    progress: Progress | None
    notify: Notify | None

    def row(self, row: Row) -> tuple[Feed, int]:
        """The feed of a row and its number of images."""
        if row.dataset == CITY:
            return self._city(row)
        assert row.root is not None
        root = row.root.expanduser()
        if row.dataset == IMAGES:
            files = ImageFiles(list_images(root), self.size, row.rescale)
            return ImageFeed(files), len(files.paths)
        if row.dataset == CAPTIONED:
            paths, captions = read_captions(root / row.split if row.split else root)
            return CaptionedFeed(ImageFiles(paths, self.size, row.rescale), captions), len(paths)
        return self._labelled(row, root)

    def _labelled(self, row: Row, root: Path) -> tuple[Feed, int]:
        found = labels_folder(root) if row.dataset == FOLDER else open_dataset(row.dataset, root, row.split)
        dataset, skipped = paired(found, self.config.skip_mismatched)
        if skipped and self.notify:
            self.notify(f"{skipped} of {len(found.samples)} pairs of {row.dataset} left out: absent or of another size")
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
        )
        return feed, len(dataset.samples)

    def _city(self, row: Row) -> tuple[Feed, int]:
        if row.rescale != (1.0,):
            raise UsageError("scenes of the city are not rescaled", "add a row of another height instead")
        folder = self.folder / "scenes" / f"{row.role}-{self.seed}-{row.height}-{row.count}"
        report = within(self.progress, f"scenes of {row.role}")
        scenes = render_scenes(folder, row.role, row.count, self.seed, row.height, self.config.workers, report)
        rare = self.config.rare_share if self.config.sampling == "rare" else 0.0
        feed: Feed = SceneFeed([scenes], self.size, rare_share=rare, captions="crop")
        return (PromptDropout(feed, 1.0) if self.config.captions == "none" else feed), row.count
