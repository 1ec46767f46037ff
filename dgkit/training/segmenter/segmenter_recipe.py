"""The recipe of ``dgkit train segmenter``: all settings of the training with their units and defaults.

A recipe is an mmengine config file (``.py``, with ``_base_``) or YAML, with the keys of :class:`SegmenterRecipe`.
Constants: DGInStyle's segmentation code, which uses those of DAFormer and HRDA.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from dgkit.config import Config, load_config
from dgkit.data.datasets import labels_folder, open_dataset
from dgkit.data.layouts import LAYOUTS
from dgkit.data.samples import Dataset
from dgkit.errors import InputError, UsageError
from dgkit.optional import first_line, require
from dgkit.taxonomies import CITYSCAPES19, Taxonomy, find_taxonomy
from dgkit.taxonomy_setting import TaxonomyChoice
from dgkit.training.segmenter.network_pairs import LITE, PREFIX, QUERY_HEADS, EncoderOptions, check_pair

FOLDER = "labels"
RANDOM = "random"  # value of pretrained


class LabelledSet(Config):
    """Images with label maps."""

    dataset: str = FOLDER
    """name of a data set (gta, cityscapes, ...), or "labels" for a folder with labels/ and images/"""
    root: Path
    """folder of the data set"""
    split: str | None = None
    """train, val, test or all; default: that of the data set"""
    scale: tuple[int, int] | None = None
    """width and height in pixels to fit each image into, keeping its aspect ratio; default: original size"""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.dataset != FOLDER and self.dataset not in LAYOUTS:
            raise ValueError(f"unknown data set {self.dataset!r}; known: {', '.join((FOLDER, *LAYOUTS))}")
        return self

    def open(self, taxonomy: Taxonomy = CITYSCAPES19) -> Dataset:
        """List its samples, with classes of ``taxonomy``. Raises UsageError, InputError."""
        if self.dataset == FOLDER:
            return labels_folder(self.root, None, taxonomy)
        return open_dataset(self.dataset, self.root, self.split, taxonomy)


class RareClasses(Config):
    """Rare class sampling of the source set. Source: Hoyer et al., DAFormer (CVPR 2022), section 3.3."""

    temperature: float = Field(0.01, gt=0)
    """temperature of the class probabilities"""
    min_pixels: int = Field(3000, ge=0)
    """a label map is used for a class if it has more pixels of it than this"""
    min_crop_ratio: float = Field(0.5, ge=0)
    """a crop is redrawn, up to 10 times, until more than min_pixels times this are of the class; HRDA: 2.0"""


class SegmenterData(Config):
    """Training and validation data."""

    source: LabelledSet
    """labelled source set"""
    taxonomy: TaxonomyChoice = None
    """classes of all sets and of the network: camvid11 or a YAML file; default: those of Cityscapes"""
    generated: tuple[Path, ...] = ()
    """folders of generated images: images/ and labels/ of train ids, with or without a manifest.jsonl"""
    filtered: bool = False
    """train on labels_filtered/ of the generated folders, written by dgkit filter, instead of labels/"""
    share: float = Field(0.5, ge=0, le=1)
    """share of generated images among the samples, independent of the sizes of the sets"""
    short_sides: tuple[int, int] | None = None
    """short side in pixels that source images are resized to, drawn between these two; default: source.scale"""
    crop: int = Field(512, ge=16)
    """side of the training crop in pixels; generated images of another size are resized to it"""
    cat_max_ratio: float = Field(0.75, gt=0, le=1)
    """a source crop is redrawn, up to 10 times, while one class fills more of it than this; 1: never"""
    rare_classes: RareClasses | None = None
    """rare class sampling of the source; default: uniform sampling"""
    colour: bool = True
    """colour augmentation of source images: brightness, contrast, saturation, hue; generated images always get it"""
    verify: bool = True
    """compare every generated file with its digest in the manifest before training"""
    val: LabelledSet | None = None
    """validation set; default: none, and no best checkpoint"""
    workers: int = Field(2, ge=0)
    """worker processes that read images; 0: the training process reads them"""
    cache: bool = False
    """decode all images into memory before training, for sets that fit; workers share the memory"""

    @model_validator(mode="after")
    def _mixed(self) -> Self:
        usual = self.share == type(self).model_fields["share"].default  # as in the config.yaml of such a run
        if not self.generated and self.share > 0 and not usual:
            raise ValueError(f"share={self.share} of generated images needs a folder of them: set generated")
        if not self.generated and self.filtered:
            raise ValueError("filtered=true needs a folder of generated images: set generated")
        if self.short_sides and not 16 <= self.short_sides[0] <= self.short_sides[1]:
            raise ValueError(f"short_sides={list(self.short_sides)} must be two sides from 16, the smaller one first")
        if self.share == 1 and self.rare_classes:
            raise ValueError("rare_classes apply to source images, which share=1 excludes")
        return self

    @property
    def classes(self) -> Taxonomy:
        """Classes of all sets."""
        return find_taxonomy(self.taxonomy)

    @property
    def generated_share(self) -> float:
        """``share``, or 0 without generated images."""
        return self.share if self.generated else 0.0


class FeatureDistance(Config):
    """ImageNet feature distance: keeps features of things close to those of a frozen ImageNet encoder.

    Source: Hoyer et al., DAFormer (CVPR 2022), section 3.3; constants of its released code.
    """

    weight: float = Field(0.005, gt=0)
    """weight of the distance in the loss"""
    classes: tuple[int, ...] = Field(CITYSCAPES19.things, min_length=1)
    """train ids of the thing classes; default: those of the taxonomy"""
    min_ratio: float = Field(0.75, gt=0.5, le=1)
    """a cell counts if a thing fills this share of its pixels"""

    def things(self, taxonomy: Taxonomy) -> tuple[int, ...]:
        """Return the thing classes; those that ``taxonomy`` states if the recipe states none."""
        return self.classes if "classes" in self.model_fields_set or taxonomy.is_default else taxonomy.things


class Shade(Config):
    """SHADE: each image also passes with restyled features, and both predictions should agree.

    Source: Zhao et al., Style-Hallucinated Dual Consistency Learning (ECCV 2022); constants of its released code.
    """

    styles: int = Field(64, ge=1)
    """number of base styles that restyled copies mix"""
    refresh: int = Field(4000, ge=1)
    """iterations between two choices of the base styles"""
    images: int | None = Field(None, ge=1)
    """source crops that the base styles are chosen from; default: one of each source image"""
    concentration: float = Field(1 / 64, gt=0)
    """concentration of the Dirichlet distribution of the mixing weights; small: mostly one base style"""
    weight: float = Field(10.0, gt=0)
    """weight of the consistency in the loss"""

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.images is not None and self.images < self.styles:
            raise ValueError(
                f"styles={self.styles} cannot be chosen from images={self.images}; images must not be fewer"
            )
        return self


class ReinTokens(Config):
    """Rein: learnt tokens in a frozen encoder. Source: Wei et al., Rein (CVPR 2024); its constants."""

    tokens: int = Field(100, ge=2)
    """tokens of each block; with head mask2former also the number of queries"""
    rank: int = Field(16, ge=1)
    """rank of the tokens of a block"""


class BackboneLora(Config):
    """LoRA in the attention of a frozen encoder. Source: Hu et al., LoRA (ICLR 2022), section 4."""

    rank: int = Field(16, ge=1)
    """rank of the change of each matrix"""
    alpha: float = Field(16.0, gt=0)
    """the change is scaled by alpha / rank"""


class SegmenterSchedule(Config):
    """Optimiser and schedule: AdamW, linear warm-up, then polynomial decay to 0."""

    steps: int = Field(40_000, ge=1)
    """number of iterations"""
    batch: int = Field(2, ge=1)
    """images per iteration and process"""
    lr: float = Field(6e-5, gt=0)
    """learning rate of the encoder"""
    head_lr: float = Field(10.0, gt=0)
    """learning rate of the heads as a multiple of lr"""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """learning rate of a ViT's block as a multiple of the next block's, for transformers:*; 1: the same for all"""
    weight_decay: float = Field(0.01, ge=0)
    """weight decay of AdamW; norms have none"""
    clip: float | None = Field(None, gt=0)
    """largest L2 norm of the gradient of all weights; longer gradients are scaled down to it; default: no limit"""
    warmup: int = Field(1500, ge=0)
    """iterations of linear warm-up, from a millionth of lr"""
    power: float = Field(1.0, gt=0)
    """power of the polynomial decay; 1: linear"""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """precision of activations; fp16 needs a GPU; bf16 also speeds up CPUs with avx512_bf16 or amx_bf16"""
    checkpoint_every: int = Field(4000, ge=1)
    """iterations between checkpoints"""
    keep: int = Field(2, ge=1)
    """number of checkpoints kept in addition to the best"""
    validate_every: int = Field(4000, ge=1)
    """iterations between validations"""


class SegmenterRecipe(Config):
    """Settings of ``dgkit train segmenter``."""

    head: Literal["segformer", "daformer", "deeplabv2", "unet", "linear", "upernet", "mask2former", "eomt"] = "daformer"
    """decode head; unet: a plain classifier on the highest resolution of the U-Net; linear: a linear probe"""
    backbone: str = "mit_b5"
    """encoder: mit_b0 to mit_b5, efficientnet_lite0, transformers:<folder or hub id> (DINOv2, DINOv3, Swin, ConvNeXt,
    ResNet); resnet101 for deeplabv2, unet for unet"""
    freeze: bool | Literal["norms"] = False
    """true: the encoder does not learn, except its adapters; norms: its normalization layers do not"""
    rein: ReinTokens | None = None
    """Rein: learnt tokens refine the features after each block of a frozen ViT, or after each level of
    efficientnet_lite0; default: none"""
    lora: BackboneLora | None = None
    """LoRA: low-rank changes of the attention of a frozen ViT or Swin, needs peft; default: none"""
    patch: int | None = Field(None, ge=4, le=64)
    """side of a ViT's patches in pixels; kernels and position embeddings are resized to it; default: published side"""
    blocks: tuple[int, int, int, int] | None = None
    """blocks of a ViT, from 0, whose features the heads get; default: evenly spaced"""
    two_scales: bool = False
    """HRDA: context at half resolution and a detail crop of half the side, fused by attention"""
    channels: int | None = Field(None, ge=8)
    """width of the head, for unet of the whole network; default: the published width"""
    pretrained: str | None = None
    """encoder weights: a .pth or .safetensors of mmsegmentation, or a transformers folder or hub id of a SegFormer
    encoder (nvidia/mit-b5), for transformers:* of the same kind; random: random weights; default: those of the folder
    of transformers:*, ImageNet weights for efficientnet_lite0, random weights for the others"""
    feature_distance: FeatureDistance | None = None
    """ImageNet feature distance in the loss, needs pretrained; default: none"""
    shade: Shade | None = None
    """SHADE: restyled features and their consistency in the loss; default: none"""
    seed: int = Field(0, ge=0, lt=2**32)
    """seed of weights, crops, mixing and augmentation"""
    data: SegmenterData
    train: SegmenterSchedule = SegmenterSchedule()
    export: bool = True
    """write segmenter.onnx with its side-car at the end"""
    out: Path | None = None
    """output folder, also --out"""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_pair(self.head, self.backbone)
        self._check_encoder()
        if self.head == "unet" and (self.two_scales or self.pretrained or self.terms):
            raise ValueError("head unet cannot be combined with two_scales, pretrained, feature_distance or shade")
        if self.head == "unet" and self.data.crop % 16:
            raise ValueError(f"data.crop={self.data.crop} must be a multiple of 16 for head unet")
        # The detail crop is half of the crop and slides by half of itself on the grid of the context's logits.
        grid = (64 if self.head == "deeplabv2" else 32) if self.two_scales else 1
        if self.data.crop % grid:
            raise ValueError(f"data.crop={self.data.crop} must be a multiple of {grid} with two_scales")
        self._check_things()
        if self.feature_distance and self.pretrained in (None, RANDOM) and self.backbone != LITE:
            raise UsageError(
                "feature_distance needs ImageNet weights, but pretrained is not set",
                "add --set pretrained=WEIGHTS or --set feature_distance=null",
            )
        return self

    def _check_things(self) -> None:
        taxonomy = self.data.classes
        things = self.feature_distance.things(taxonomy) if self.feature_distance else (0,)
        unknown = [number for number in things if not 0 <= number < taxonomy.size]
        if unknown or not things:
            raise ValueError(
                f"feature_distance.classes {unknown} are not train ids; use 0 to {taxonomy.size - 1}, at least one"
            )

    def _check_encoder(self) -> None:
        """Raise UsageError for settings of the encoder that cannot be combined."""
        foundation = self.backbone.startswith(PREFIX)
        if (self.rein or self.lora) and self.freeze is not True:
            name = "rein" if self.rein else "lora"
            raise UsageError(f"{name} adapts a frozen encoder, but freeze is {self.freeze}", "add --set freeze=true")
        if self.rein and self.lora:
            raise UsageError("rein and lora cannot be combined", "remove one: --set lora=null")
        if self.feature_distance and (self.freeze is True or foundation):
            reason = (
                "the features of a frozen encoder do not change, so that their distance is always 0"
                if self.freeze is True
                else "it harms foundation encoders (VFM-UDA++, arXiv:2503.10685)"
            )
            raise UsageError(
                f"feature_distance cannot be combined with {'freeze=true' if self.freeze is True else self.backbone}: "
                f"{reason}",
                "add --set feature_distance=null",
            )
        new = self.freeze is not False or foundation or self.backbone == LITE
        new = new or self.head in ("linear", "upernet", *QUERY_HEADS)
        if new and self.two_scales:
            raise UsageError(
                "two_scales needs a trained encoder: mit_* with head segformer or daformer, or resnet101 with "
                f"deeplabv2; got backbone {self.backbone}, head {self.head}, freeze={self.freeze}",
                "add --set two_scales=false",
            )
        if self.shade and (foundation or self.backbone == LITE or self.head in QUERY_HEADS):
            raise UsageError(
                f"shade restyles features of mit_* and resnet101; got backbone {self.backbone}, head {self.head}",
                "add --set shade=null",
            )
        if self.shade and self.freeze is True:
            raise UsageError("shade changes how the encoder learns, but freeze is true", "add --set shade=null")

    @property
    def encoder(self) -> EncoderOptions:
        """What of the encoder is frozen, adapted or resized."""
        rein, lora = (None if chosen is None else chosen.model_dump() for chosen in (self.rein, self.lora))
        return EncoderOptions(self.freeze, rein, lora, self.patch, self.blocks)

    @property
    def foundation(self) -> bool:
        """Whether the network is one of those that have no weight decay for tokens, queries and embeddings."""
        return self.backbone.startswith(PREFIX) or self.head in QUERY_HEADS

    @property
    def terms(self) -> dict[str, Any]:
        """Settings of the extra loss terms by name, as plain values."""
        chosen = {"feature_distance": self.feature_distance, "shade": self.shade}
        found = {name: settings.model_dump(mode="json") for name, settings in chosen.items() if settings}
        if self.feature_distance:
            found["feature_distance"]["classes"] = list(self.feature_distance.things(self.data.classes))
        return found


def load_segmenter(recipe: Path, sets: Sequence[str] = (), out: Path | None = None) -> SegmenterRecipe:
    """Read a ``.py`` or YAML recipe; ``sets`` ("a.b=value") and ``out`` override it.

    A ``.py`` recipe is Python and is executed. Raises InputError, UsageError, MissingDependency.
    """
    values: Path | dict[str, Any] = _read_python(recipe) if recipe.suffix == ".py" else recipe
    loaded = load_config(SegmenterRecipe, values, sets, out=out)
    if loaded.out is None:
        raise UsageError(f"{recipe} has no output folder", "add --out FOLDER")
    return loaded


def _read_python(recipe: Path) -> dict[str, Any]:
    if not recipe.is_file():
        raise InputError(f"cannot read the recipe {recipe}: no such file", "check the path")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from mmengine's own imports
        reader: Any = require("mmengine.config", "seg").Config
    try:
        return reader.fromfile(str(recipe)).to_dict()
    except Exception as error:  # the file is executed and may raise anything
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"cannot read the recipe {recipe}: {reason}", "fix the file") from error
