"""Names of backbones and heads, which of them fit, and the settings of an encoder. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dgkit.errors import UsageError, did_you_mean, shown

# Embedding width and blocks per stage. Source: Xie et al., SegFormer (NeurIPS 2021), table 6.
MIT: dict[str, tuple[int, tuple[int, int, int, int]]] = {
    "mit_b0": (32, (2, 2, 2, 2)),
    "mit_b1": (64, (2, 2, 2, 2)),
    "mit_b2": (64, (3, 4, 6, 3)),
    "mit_b3": (64, (3, 4, 18, 3)),
    "mit_b4": (64, (3, 8, 27, 3)),
    "mit_b5": (64, (3, 6, 40, 3)),
}
RESNET = {"resnet101": 101}
LITE = "efficientnet_lite0"
PREFIX = "transformers:"
TOKENS = ("dinov2", "dinov2_with_registers", "dinov3_vit")  # plain ViTs of transformers: one grid of patches
STAGES = ("dinov3_convnext", "swin", "convnext", "resnet")  # of transformers: four levels at strides 4 to 32

LEVELS = ("segformer", "daformer", "upernet", "mask2former")  # heads that take four levels at strides 4 to 32
QUERY_HEADS = ("mask2former", "eomt")
_OWN = {"deeplabv2": "resnet101", "unet": "unet"}  # backbones for one head alone
_NAMES = (*MIT, *RESNET, "unet", LITE)


@dataclass(frozen=True)
class EncoderOptions:
    """Settings of an encoder in a recipe; each is described at the key of that name in SegmenterRecipe."""

    freeze: bool | str = False
    rein: Mapping[str, Any] | None = None
    lora: Mapping[str, Any] | None = None
    patch: int | None = None
    blocks: Sequence[int] | None = None


def check_pair(head: str, backbone: str) -> None:
    """Raise UsageError for an unknown ``backbone``, or one that ``head`` cannot be combined with, by their names."""
    foundation = backbone.startswith(PREFIX)
    if not foundation and backbone not in _NAMES:
        raise UsageError(
            f"unknown backbone {shown(backbone)}; known: {', '.join(_NAMES)}, {PREFIX}<folder or hub id>",
            did_you_mean(backbone, _NAMES, f"for an encoder of transformers: --set backbone={PREFIX}FOLDER"),
        )
    own = head in _OWN or backbone in _OWN.values()
    if (own and _OWN.get(head) != backbone) or (head == "eomt" and not foundation):
        raise UsageError(
            f"head {head!r} cannot be combined with backbone {backbone!r}: deeplabv2 needs backbone resnet101, unet "
            f"needs unet, eomt needs a ViT of {PREFIX}*, the others need mit_*, {LITE} or {PREFIX}*",
            "use for example --set head=daformer --set backbone=mit_b5",
        )
