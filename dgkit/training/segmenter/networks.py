"""Model configs of mmsegmentation for all pairs of head and backbone."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from dgkit.errors import UsageError
from dgkit.labels import IGNORE, NUM_CLASSES
from dgkit.training.segmenter import heads, hrda, regularised  # noqa: F401  (registers the classes)
from dgkit.training.segmenter.mm import MODELS, MMLogger, init_default_scope

MEAN = (123.675, 116.28, 103.53)  # of ImageNet, RGB 0..255, as for all published MiT and ResNet encoders
STD = (58.395, 57.12, 57.375)

# Embedding width and blocks per stage. Source: Xie et al., SegFormer (NeurIPS 2021), table 6.
MIT: dict[str, tuple[int, tuple[int, int, int, int]]] = {
    "mit_b0": (32, (2, 2, 2, 2)),
    "mit_b1": (64, (2, 2, 2, 2)),
    "mit_b2": (64, (3, 4, 6, 3)),
    "mit_b3": (64, (3, 4, 18, 3)),
    "mit_b4": (64, (3, 8, 27, 3)),
    "mit_b5": (64, (3, 6, 40, 3)),
}
HEADS_PER_STAGE = (1, 2, 5, 8)
RESNET = {"resnet101": 101}
UNET_CHANNELS = 64  # at the highest resolution. Source: Ronneberger et al., U-Net (MICCAI 2015), figure 1
UNET_LEVELS = 5  # each with half the side and twice the channels of the previous one
STRIDES = {"segformer": 4, "daformer": 4, "deeplabv2": 8, "unet": 1}  # of the logits, in pixels
BACKBONES = {"segformer": tuple(MIT), "daformer": tuple(MIT), "deeplabv2": tuple(RESNET), "unet": ("unet",)}
PAIRS = "segformer and daformer on mit_*, deeplabv2 on resnet101, unet on unet"


def model_config(
    head: str,
    backbone: str,
    crop: int,
    *,
    two_scales: bool = False,
    channels: int | None = None,
    terms: Mapping[str, Any] | None = None,
    classes: int = NUM_CLASSES,
) -> dict[str, Any]:
    """Return the config of the network with ``head`` and ``backbone``, a pair of :data:`BACKBONES`.

    ``crop`` is the side of the training crop in pixels; ``two_scales`` makes it HRDA, whose detail crop is half of
    that. ``channels`` is the width of the head, by default the published one. ``terms``: settings of extra loss terms
    by name, see :class:`~dgkit.training.segmenter.regularised.RegularisedSegmentor`; they affect only training. Raises
    UsageError for a pair that does not exist.
    """
    if backbone not in BACKBONES.get(head, ()):
        raise UsageError(
            f"head {head!r} cannot be combined with backbone {backbone!r}; available: {PAIRS}",
            "use for example daformer on mit_b5",
        )
    config: dict[str, Any] = {
        "type": "RegularisedSegmentor" if terms else "EncoderDecoder",
        "data_preprocessor": {
            "type": "SegDataPreProcessor",
            "mean": list(MEAN),
            "std": list(STD),
            "bgr_to_rgb": True,
            "pad_val": 0,
            "seg_pad_val": IGNORE,
            "size": (crop, crop),
        },
        "backbone": backbone_config(backbone, channels),
        "decode_head": head_config(head, backbone, channels, classes=classes),
        "train_cfg": dict(terms or {}),
        "test_cfg": {"mode": "whole"},
    }
    if head == "unet":
        config["data_preprocessor"]["test_cfg"] = {"size_divisor": 2 ** (UNET_LEVELS - 1)}
    if two_scales:
        config["data_preprocessor"]["test_cfg"] = {"size_divisor": 2 * STRIDES[head]}
        attention = head_config(head, backbone, channels and min(channels, 256), attention=True, classes=classes)
        config |= {
            "type": "HRDASegmentor",
            "scale_head": attention,
            "detail_crop": crop // 2,
            "stride": STRIDES[head],
            "test_cfg": {"mode": "slide", "crop_size": (crop, crop), "stride": (crop // 2, crop // 2)},
        }
    return config


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
    head: str, backbone: str, channels: int | None = None, *, attention: bool = False, classes: int = NUM_CLASSES
) -> dict[str, Any]:
    """Return the config of a decode head.

    ``classes``: their number; ``attention``: its light form that weights HRDA's two scales per class.
    """
    common: dict[str, Any] = {"num_classes": classes, "align_corners": False, "ignore_index": IGNORE}
    if head == "deeplabv2":
        return common | {"type": "DeepLabV2Head", "in_channels": 2048, "in_index": 3, "channels": 2048}
    if head == "unet":
        wide = channels or UNET_CHANNELS
        return common | {
            "type": "FCNHead", "in_channels": wide, "in_index": UNET_LEVELS - 1, "channels": wide, "num_convs": 0,
            "concat_input": False, "dropout_ratio": 0.0,
        }  # fmt: skip
    width = MIT[backbone][0]
    common |= {
        "in_channels": [width * factor for factor in HEADS_PER_STAGE],
        "in_index": [0, 1, 2, 3],
        "norm_cfg": {"type": "BN"},
        "dropout_ratio": 0.1,
    }
    if head == "daformer":
        wide = channels or 256
        fusion = "conv" if attention else "aspp"
        return common | {"type": "DAFormerHead", "channels": wide, "embed_channels": wide, "fusion": fusion}
    published = 256 if attention or backbone in ("mit_b0", "mit_b1") else 768
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
