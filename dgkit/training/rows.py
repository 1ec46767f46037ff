"""Which data a training reads: rows of data sets and how crops are drawn from them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from dgkit.config import Config
from dgkit.data.layouts import LAYOUTS

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
    """labelled rows: class names of the crop; the same in a style prompt where the sample's weather is known; empty"""
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
