"""Model configs of mmsegmentation for all pairs of head and backbone."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from dgkit.errors import UsageError
from dgkit.labels import IGNORE, NUM_CLASSES
from dgkit.segmenters.efficientnet_lite import LITE_CHANNELS, LITE_MEAN, LITE_STD
from dgkit.training.segmenter import foundation_backbones, foundation_segmentor, heads, hrda, regularised  # noqa: F401  (registers them)
from dgkit.training.segmenter.foundation_config import EncoderPlan, plan_encoder
from dgkit.training.segmenter.mm import MODELS, MMLogger, init_default_scope
from dgkit.training.segmenter.network_pairs import (
    LEVELS,
    LITE,
    MIT,
    PREFIX,
    QUERY_HEADS,
    RESNET,
    TOKENS,
    EncoderOptions,
    check_pair,
)

MEAN = (123.675, 116.28, 103.53)  # of ImageNet, RGB 0..255, as for all published encoders but EfficientNet-Lite0
STD = (58.395, 57.12, 57.375)

HEADS_PER_STAGE = (1, 2, 5, 8)
UNET_CHANNELS = 64  # at the highest resolution. Source: Ronneberger et al., U-Net (MICCAI 2015), figure 1
UNET_LEVELS = 5  # each with half the side and twice the channels of the previous one
STRIDES = {"segformer": 4, "daformer": 4, "deeplabv2": 8, "unet": 1}  # of the logits, in pixels


def model_config(
    head: str,
    backbone: str,
    crop: int,
    *,
    two_scales: bool = False,
    channels: int | None = None,
    terms: Mapping[str, Any] | None = None,
    encoder: EncoderOptions | None = None,
    classes: int = NUM_CLASSES,
) -> dict[str, Any]:
    """Return the config of the network with ``head`` and ``backbone``.

    ``crop`` is the side of the training crop in pixels; ``two_scales`` makes it HRDA, whose detail crop is half of
    that. ``channels`` is the width of the head, by default the published one. ``terms``: settings of extra loss terms
    by name, see :class:`~dgkit.training.segmenter.regularised.RegularisedSegmentor`; they affect only training.
    ``encoder``: what is frozen or adapted. Raises UsageError for a pair that does not fit, ModelError for an encoder
    that cannot be read.
    """
    options = encoder or EncoderOptions()
    plan = encoder_plan(head, backbone, crop, channels, options)
    config: dict[str, Any] = {
        "type": "RegularisedSegmentor" if terms else "EncoderDecoder",
        "data_preprocessor": preprocessor(backbone, crop, 2 * STRIDES[head] if two_scales else plan.divisor),
        "backbone": plan.backbone,
        "decode_head": head_config(head, backbone, plan.channels, channels, classes=classes),
        "train_cfg": dict(terms or {}),
        "test_cfg": {"mode": "whole"},
    }
    if plan.neck:
        config["neck"] = plan.neck
    if options.freeze or head in QUERY_HEADS or backbone.startswith(PREFIX):
        config |= {"type": "FoundationSegmentor", "freeze": options.freeze}
        adapt_query_head(config, head, options)
    if two_scales:
        narrow = channels and min(channels, 256)
        attention = head_config(head, backbone, plan.channels, narrow, classes=classes, attention=True)
        config |= {
            "type": "HRDASegmentor",
            "scale_head": attention,
            "detail_crop": crop // 2,
            "stride": STRIDES[head],
            "test_cfg": {"mode": "slide", "crop_size": (crop, crop), "stride": (crop // 2, crop // 2)},
        }
    return config


_VIT_OPTIONS = ("rein", "lora", "patch", "blocks")


def preprocessor(backbone: str, crop: int, divisor: int | None) -> dict[str, Any]:
    """Return the config of the normalization that the weights of ``backbone`` were trained with.

    While testing, images are padded to multiples of ``divisor``.
    """
    own = backbone == LITE
    mean, std = ([255 * value for value in LITE_MEAN], [255 * value for value in LITE_STD]) if own else (MEAN, STD)
    config: dict[str, Any] = {
        "type": "SegDataPreProcessor",
        "mean": list(mean),
        "std": list(std),
        "bgr_to_rgb": True,
        "pad_val": 0,
        "seg_pad_val": IGNORE,
        "size": (crop, crop),
    }
    return config | ({"test_cfg": {"size_divisor": divisor}} if divisor else {})


def encoder_plan(head: str, backbone: str, crop: int, channels: int | None, options: EncoderOptions) -> EncoderPlan:
    """Return the encoder ``backbone`` for ``head``. Raises UsageError if they do not fit."""
    check_pair(head, backbone)
    levels = head in LEVELS
    if backbone.startswith(PREFIX):
        plan = plan_encoder(backbone.removeprefix(PREFIX), crop, options, levels)
        if head == "eomt" and plan.backbone["type"] != "TokenBackbone":
            raise UsageError(
                f"head 'eomt' needs a plain ViT, but {backbone} is a {plan.backbone['kind']} encoder; allowed: "
                f"{', '.join(TOKENS)}",
                "use head=mask2former",
            )
        return plan
    names = ["lora", "patch", "blocks"] if backbone == LITE and head != "mask2former" else [*_VIT_OPTIONS]
    wrong = next((name for name in names if getattr(options, name) is not None), None)
    if wrong:
        raise UsageError(
            f"{wrong} cannot be combined with backbone {backbone!r} and head {head!r}; it needs a ViT of {PREFIX}*",
            f"remove it: --set {wrong}=null",
        )
    if backbone == LITE:
        own = LITE_CHANNELS if levels else LITE_CHANNELS[-1:]
        adapted = {"type": "ReinLite", "rein": dict(options.rein)} if options.rein else {"type": "EfficientNetLite0"}
        return EncoderPlan({**adapted, "levels": levels}, list(own))
    inputs = [2048] if backbone in RESNET else [channels or UNET_CHANNELS] if backbone == "unet" else None
    divisor = 2 ** (UNET_LEVELS - 1) if backbone == "unet" else None
    widths = inputs or [MIT[backbone][0] * factor for factor in HEADS_PER_STAGE]
    return EncoderPlan(backbone_config(backbone, channels), widths, divisor=divisor)


def adapt_query_head(config: dict[str, Any], head: str, options: EncoderOptions) -> None:
    """Fit a query head to its encoder: EoMT's blocks to the depth, Mask2Former's queries to the tokens of Rein."""
    backbone, decoder = config["backbone"], config["decode_head"]
    if head == "eomt":  # Source: Kerssies et al., EoMT, table 4: 3 blocks for S and B, 4 for L, 5 for g
        count = backbone["settings"]["num_hidden_layers"]
        decoder["blocks"] = min(count, 3 if count <= 12 else 4 if count <= 24 else 5)
    if head == "mask2former" and options.rein is not None:
        decoder["queries"] = options.rein.get("tokens", decoder["queries"])
        backbone["rein"] = {**options.rein, "queries": decoder["channels"]}


def backbone_config(name: str, channels: int | None = None) -> dict[str, Any]:
    """Return the config of MixVisionTransformer, ResNet v1c with output stride 8, or U-Net with ``channels``."""
    if name == "unet":
        return {
            "type": "UNet",
            "base_channels": channels or UNET_CHANNELS,
            "num_stages": UNET_LEVELS,
            "strides": (1,) * UNET_LEVELS,
            "enc_num_convs": (2,) * UNET_LEVELS,
            "dec_num_convs": (2,) * (UNET_LEVELS - 1),
            "downsamples": (True,) * (UNET_LEVELS - 1),
            "enc_dilations": (1,) * UNET_LEVELS,
            "dec_dilations": (1,) * (UNET_LEVELS - 1),
            "norm_cfg": {"type": "BN"},
        }
    if name in RESNET:
        return {
            "type": "ResNetV1c",
            "depth": RESNET[name],
            "dilations": (1, 1, 2, 4),
            "strides": (1, 2, 1, 1),
            "norm_cfg": {"type": "BN"},
            "contract_dilation": True,
        }
    width, blocks = MIT[name]
    return {
        "type": "MixVisionTransformer",
        "embed_dims": width,
        "num_layers": blocks,
        "num_heads": HEADS_PER_STAGE,
        "patch_sizes": (7, 3, 3, 3),
        "sr_ratios": (8, 4, 2, 1),
        "drop_path_rate": 0.1,
    }


def head_config(
    head: str,
    backbone: str,
    inputs: list[int],
    channels: int | None = None,
    *,
    classes: int = NUM_CLASSES,
    attention: bool = False,
) -> dict[str, Any]:
    """Return the config of a decode head for ``inputs``, the channels of the encoder's levels.

    ``attention``: its light form that weights HRDA's two scales per class.
    """
    common: dict[str, Any] = {"num_classes": classes, "align_corners": False, "ignore_index": IGNORE}
    if head == "deeplabv2":
        return common | {"type": "DeepLabV2Head", "in_channels": inputs[-1], "in_index": 3, "channels": inputs[-1]}
    if head == "unet":
        wide = inputs[-1]
        return common | {
            "type": "FCNHead", "in_channels": wide, "in_index": UNET_LEVELS - 1, "channels": wide, "num_convs": 0,
            "concat_input": False, "dropout_ratio": 0.0,
        }  # fmt: skip
    if head in ("linear", "eomt"):
        kind = "LinearHead" if head == "linear" else "EomtHead"
        common |= {"type": kind, "in_channels": inputs[-1], "in_index": -1, "channels": inputs[-1]}
        return common | ({"queries": 100} if head == "eomt" else {})
    common |= {"in_channels": inputs, "in_index": [0, 1, 2, 3], "norm_cfg": {"type": "BN"}}
    if head == "mask2former":
        return common | {"type": "MaskedAttentionHead", "channels": channels or 256, "queries": 100}
    common["dropout_ratio"] = 0.1
    if head == "upernet":
        return common | {"type": "UperNetHead", "channels": channels or 512}
    if head == "daformer":
        wide = channels or 256
        fusion = "conv" if attention else "aspp"
        return common | {"type": "DAFormerHead", "channels": wide, "embed_channels": wide, "fusion": fusion}
    published = 256 if attention or backbone in ("mit_b0", "mit_b1", LITE) else 768
    return common | {"type": "SegformerHead", "channels": channels or published}


def build_network(config: dict[str, Any]) -> Any:
    """Build the network of a config of :func:`model_config`, a ``torch.nn.Module`` with freshly initialised weights."""
    with known_warnings():
        init_default_scope("mmseg")
        keep_from_console(MMLogger.get_current_instance())  # otherwise it lists the origin of every weight
        network = MODELS.build(config)
        network.init_weights()
    return network


@contextlib.contextmanager
def known_warnings() -> Iterator[None]:
    """Silence mmsegmentation's warning about its own default: ignored pixels count in the mean of the loss.

    This default is the published setting: DGInStyle's code averages over all pixels.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Default ``avg_non_ignore``")
        yield


def keep_from_console(logger: logging.Logger) -> None:
    """Restrict mmengine's logger to its file and errors; the console shows the progress of the command line."""
    logger.setLevel(logging.INFO)
    for handler in logger.handlers:
        handler.setLevel(logging.INFO if isinstance(handler, logging.FileHandler) else logging.ERROR)
