"""The recipe of ``dgkit train segmenter``: every number of the training, with units, and nowhere else.

A recipe is an mmengine config file (``.py``, with ``_base_``) or YAML; both hold the keys of :class:`SegmenterRecipe`.
Constants: DGInStyle's segmentation code, which trains with those of DAFormer and HRDA.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from dgkit.config import Config, load_config
from dgkit.data.datasets import Dataset, labels_folder, open_dataset
from dgkit.data.layouts import LAYOUTS
from dgkit.errors import InputError, UsageError
from dgkit.labels import NUM_CLASSES
from dgkit.optional import first_line, require

FOLDER = "labels"


class LabelledSet(Config):
    """Photographs with label maps."""

    dataset: str = FOLDER
    """a data set of dgkit (gta, cityscapes, ...); "labels": a folder with labels/ and images/"""
    root: Path
    """folder of the data set"""
    split: str | None = None
    """train, val, test or all; left out: the data set's own default"""
    scale: tuple[int, int] | None = None
    """width and height, pixels, that each picture is resized to fit into, keeping its shape; left out: as it is"""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.dataset != FOLDER and self.dataset not in LAYOUTS:
            raise ValueError(f"unknown data set {self.dataset!r}, allowed: {', '.join((FOLDER, *LAYOUTS))}")
        return self

    def open(self) -> Dataset:
        """Its samples. Raises UsageError, InputError."""
        if self.dataset == FOLDER:
            return labels_folder(self.root)
        return open_dataset(self.dataset, self.root, self.split)


class RareClasses(Config):
    """Rare class sampling of the source set. Source: Hoyer et al., DAFormer (CVPR 2022), section 3.3."""

    temperature: float = Field(0.01, gt=0)
    """of the class probabilities"""
    min_pixels: int = Field(3000, ge=0)
    """a label map serves a class if it has more pixels of it"""
    min_crop_ratio: float = Field(0.5, ge=0)
    """a crop is drawn again, up to 10 times, until more than min_pixels times this are of the class; HRDA: 2.0"""


class SegmenterData(Config):
    """What is trained on and validated on."""

    source: LabelledSet
    """the labelled source set"""
    generated: tuple[Path, ...] = ()
    """folders of generated images: images/ and labels/ of train ids, with or without a manifest.jsonl"""
    filtered: bool = False
    """train on labels_filtered/ of the generated folders, which dgkit filter wrote, instead of labels/"""
    share: float = Field(0.5, ge=0, le=1)
    """share of generated images among the samples, whatever the sizes of the sets"""
    crop: int = Field(512, ge=16)
    """side of the training crop, pixels; generated images of another size are resized to it"""
    cat_max_ratio: float = Field(0.75, gt=0, le=1)
    """a crop of the source is drawn again, up to 10 times, while one class fills more of it; 1: never"""
    rare_classes: RareClasses | None = None
    """rare class sampling of the source; left out: uniform"""
    colour: bool = True
    """disturb brightness, contrast, saturation and hue of source images; generated images always are"""
    verify: bool = True
    """compare every generated file with the digest in its manifest before training"""
    val: LabelledSet | None = None
    """validated on; left out: no validation, and no best checkpoint"""
    workers: int = Field(2, ge=0)
    """processes that read images; 0: none"""
    cache: bool = False
    """decode all pictures into memory before training, for sets that fit; the processes share it"""

    @model_validator(mode="after")
    def _mixed(self) -> Self:
        if not self.generated and "share" in self.model_fields_set and self.share > 0:
            raise ValueError(f"share={self.share} of generated images, but no generated folder is stated")
        if not self.generated and self.filtered:
            raise ValueError("filtered labels are asked for, but no generated folder is stated")
        if self.share == 1 and self.rare_classes:
            raise ValueError("rare_classes concern the source, of which share=1 leaves nothing")
        return self

    @property
    def generated_share(self) -> float:
        """``share``, or 0 without generated images."""
        return self.share if self.generated else 0.0


class FeatureDistance(Config):
    """ImageNet feature distance: keeps the encoder near a frozen one of ImageNet where a label map shows things.

    Source: Hoyer et al., DAFormer (CVPR 2022), section 3.3; constants of its released code.
    """

    weight: float = Field(0.005, gt=0)
    """of the distance in the loss"""
    classes: tuple[int, ...] = Field((6, 7, *range(11, NUM_CLASSES)), min_length=1)
    """train ids of the things"""
    min_ratio: float = Field(0.75, gt=0.5, le=1)
    """a position counts if a thing fills this share of its pixels"""

    @model_validator(mode="after")
    def _known(self) -> Self:
        unknown = [number for number in self.classes if not 0 <= number < NUM_CLASSES]
        if unknown:
            raise ValueError(f"classes {unknown} are no train ids, allowed are 0 to {NUM_CLASSES - 1}")
        return self


class Shade(Config):
    """SHADE: a restyled copy of each picture's features, and the same prediction asked of both.

    Source: Zhao et al., Style-Hallucinated Dual Consistency Learning (ECCV 2022); constants of its released code.
    """

    styles: int = Field(64, ge=1)
    """base styles, of which a restyled copy gets a mixture"""
    refresh: int = Field(4000, ge=1)
    """iterations between two choices of base styles"""
    images: int | None = Field(None, ge=1)
    """crops of the source that they are chosen from; left out: one of each source picture"""
    concentration: float = Field(1 / 64, gt=0)
    """of the Dirichlet distribution of the mixtures; small: mostly one base style"""
    weight: float = Field(10.0, gt=0)
    """of the consistency in the loss"""

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.images is not None and self.images < self.styles:
            raise ValueError(f"styles={self.styles} cannot be chosen from images={self.images}")
        return self


class SegmenterSchedule(Config):
    """Optimiser and schedule: AdamW, linear warm-up, then linear decay to 0."""

    steps: int = Field(40_000, ge=1)
    """iterations"""
    batch: int = Field(2, ge=1)
    """images per iteration and process"""
    lr: float = Field(6e-5, gt=0)
    """learning rate of the encoder"""
    head_lr: float = Field(10.0, gt=0)
    """learning rate of the heads, times lr"""
    weight_decay: float = Field(0.01, ge=0)
    """of AdamW; 0 for norms"""
    warmup: int = Field(1500, ge=0)
    """iterations of linear warm-up from a millionth of lr"""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """of activations; fp16 needs a GPU, bf16 pays on a CPU that multiplies in it (avx512_bf16, amx_bf16), too"""
    checkpoint_every: int = Field(4000, ge=1)
    """iterations between checkpoints"""
    keep: int = Field(2, ge=1)
    """checkpoints kept beside the best"""
    validate_every: int = Field(4000, ge=1)
    """iterations between validations"""


class SegmenterRecipe(Config):
    """``dgkit train segmenter``."""

    head: Literal["segformer", "daformer", "deeplabv2", "unet"] = "daformer"
    """decode head; unet: a plain classifier on the U-Net's highest level"""
    backbone: Literal["mit_b0", "mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5", "resnet101", "unet"] = "mit_b5"
    """encoder; deeplabv2 goes with resnet101, unet with unet, the others with mit_*"""
    two_scales: bool = False
    """HRDA: context at half resolution and a detail crop of half the side, joined by attention"""
    channels: int | None = Field(None, ge=8)
    """width of the head, of unet the whole network's; left out: the published one"""
    pretrained: str | None = None
    """encoder weights: a .pth or .safetensors of mmsegmentation, or a transformers folder or hub id of a SegFormer
    encoder (nvidia/mit-b5); left out: random weights"""
    feature_distance: FeatureDistance | None = None
    """ImageNet feature distance in the loss; needs pretrained. Left out: none"""
    shade: Shade | None = None
    """SHADE: restyled features, and their consistency in the loss. Left out: none"""
    seed: int = Field(0, ge=0)
    """of weights, crops, mixing and disturbances"""
    data: SegmenterData
    train: SegmenterSchedule = SegmenterSchedule()
    export: bool = True
    """write segmenter.onnx with its side-car at the end"""
    out: Path | None = None
    """folder of the result; --out"""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        expected = {"deeplabv2": "resnet101", "unet": "unet"}.get(self.head, "mit_")
        if not self.backbone.startswith(expected):
            raise ValueError("head deeplabv2 goes with backbone resnet101, unet with unet, the others with mit_*")
        if self.head == "unet" and (self.two_scales or self.pretrained or self.terms):
            raise ValueError("unet trains from random weights: without two_scales, pretrained, feature_distance, shade")
        if self.head == "unet" and self.data.crop % 16:
            raise ValueError(f"data.crop={self.data.crop}: with unet a multiple of 16")
        # The detail crop, half of it, slides by half of itself on the grid of the context's logits.
        grid = (64 if self.head == "deeplabv2" else 32) if self.two_scales else 1
        if self.data.crop % grid:
            raise ValueError(f"data.crop={self.data.crop}: with two_scales a multiple of {grid}")
        if self.feature_distance and not self.pretrained:
            raise UsageError(
                "feature_distance is a distance to ImageNet's weights, and none are stated",
                "add --set pretrained=WEIGHTS, or --set feature_distance=null",
            )
        return self

    @property
    def terms(self) -> dict[str, Any]:
        """Further terms of the loss by name, as plain values."""
        chosen = {"feature_distance": self.feature_distance, "shade": self.shade}
        return {name: settings.model_dump(mode="json") for name, settings in chosen.items() if settings}


def load_segmenter(recipe: Path, sets: Sequence[str] = (), out: Path | None = None) -> SegmenterRecipe:
    """Read a ``.py`` or YAML recipe; ``sets`` ("a.b=value") and ``out`` win over it.

    A ``.py`` recipe is Python and is executed. Raises InputError, UsageError, MissingDependency.
    """
    values: Path | dict[str, Any] = _read_python(recipe) if recipe.suffix == ".py" else recipe
    loaded = load_config(SegmenterRecipe, values, sets, out=out)
    if loaded.out is None:
        raise UsageError(f"{recipe} states no output folder", "add --out FOLDER")
    return loaded


def _read_python(recipe: Path) -> dict[str, Any]:
    if not recipe.is_file():
        raise InputError(f"cannot read the recipe {recipe}: no such file", "check the path")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        reader: Any = require("mmengine.config", "seg").Config
    try:
        return reader.fromfile(str(recipe)).to_dict()
    except Exception as error:  # whatever the file raises when it is executed
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"cannot read the recipe {recipe}: {reason}", "correct the file") from error
