"""Encoders of transformers and EfficientNet-Lite0 as backbones of mmsegmentation.

A config holds the settings of the network instead of a path, so a checkpoint is read without the folder that it
started from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dgkit.errors import ModelError
from dgkit.optional import first_line
from dgkit.segmenters.efficientnet_lite import LITE_CHANNELS, EfficientNetLite0
from dgkit.segmenters.transformers import without_progress_bar
from dgkit.texts import count_of
from dgkit.training.loop.integrity import check_finite
from dgkit.training.segmenter.adapters import Rein, add_lora, is_adapter
from dgkit.training.segmenter.foundation_config import find_encoder, read_encoder
from dgkit.training.segmenter.mm import MODELS
from dgkit.training.segmenter.network_pairs import TOKENS

_POSITIONS, _PATCHES = "position_embeddings", "patch_embeddings"
_NEW = ("hidden_states_norms", "layernorm")  # norms that AutoBackbone adds to a classifier's network


@dataclass(frozen=True)
class TokenGrid:
    """What blocks of a ViT need besides tokens: rows and columns of patches, and rotary position embeddings."""

    rows: int
    columns: int
    positions: Mapping[str, Any]


class FoundationBackbone(nn.Module):
    """Base of the encoders of transformers: ``kind`` and ``settings`` describe the network, see read_encoder."""

    def __init__(self, kind: str, settings: Mapping[str, Any], lora: Mapping[str, Any] | None, **chosen: Any) -> None:
        super().__init__()
        self.kind = kind
        self.encoder = make_encoder(kind, dict(settings) | chosen)
        if lora:
            add_lora(self.encoder, **lora)

    def load_pretrained(self, source: str) -> int:
        """Load the weights in the folder or hub id ``source``; return their number. Raises ModelError.

        Position embeddings and patch kernels are resized, both bicubic. Source: Wei et al., Rein, released code.
        """
        folder = find_encoder(source)
        found = read_weights(folder, self.encoder)
        copied = {}
        wanted = self.encoder.state_dict()
        for name, value in wanted.items():
            if is_adapter(name):
                continue
            weight = found.get(name.replace(".base_layer.", "."))
            if weight is None:
                raise ModelError(f"{source} has no weights {name}", "choose the backbone that these weights belong to")
            copied[name] = _fitted(name, weight, value.shape)
            if copied[name].shape != value.shape:
                raise ModelError(
                    f"{source}: {name} has shape {list(weight.shape)}, the encoder needs {list(value.shape)}",
                    "choose the backbone that these weights belong to",
                )
        check_finite(copied, source, "download the weights again")
        self.encoder.load_state_dict(copied, strict=False)
        return len(copied)


@MODELS.register_module(force=True)
class TokenBackbone(FoundationBackbone):
    """A plain ViT (DINOv2, with registers, DINOv3): features after each of ``blocks``, all at the stride of a patch.

    Images are [N,3,H,W] with sides that are multiples of the patch; features [N,C,H/patch,W/patch], after the encoder's
    last norm. Positions are those of ``settings["image_size"]``, and resized bicubic for other sizes. ``rein`` and
    ``lora`` are settings of the adapters.
    """

    def __init__(
        self,
        kind: str,
        settings: Mapping[str, Any],
        blocks: Sequence[int],
        rein: Mapping[str, Any] | None = None,
        lora: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(kind, settings, lora)
        self.blocks = tuple(blocks)
        config = self.encoder.config
        self.patch, self.width = int(config.patch_size), int(config.hidden_size)
        self.prefix = 1 + int(getattr(config, "num_register_tokens", 0))  # class token and registers
        self.encoder.embeddings.mask_token = None  # only for pretraining
        self.rein = None if rein is None else Rein(len(self.layers), self.width, self.patch, **rein)

    @property
    def layers(self) -> nn.ModuleList:
        """The blocks of the ViT."""
        return (self.encoder.model if self.kind == "dinov3_vit" else self.encoder.encoder).layer

    def norm(self, tokens: Tensor) -> Tensor:
        """Return tokens after the encoder's last norm."""
        return (self.encoder.norm if self.kind == "dinov3_vit" else self.encoder.layernorm)(tokens)

    def embed(self, images: Tensor) -> tuple[Tensor, TokenGrid]:
        """Return the first tokens [N,prefix + P,C] of images, patches last."""
        parts = self.encoder.embeddings
        rows, columns = images.shape[-2] // self.patch, images.shape[-1] // self.patch
        if self.kind == "dinov3_vit":
            rotary = {_POSITIONS: self.encoder.rope_embeddings(images)}
            return parts(images), TokenGrid(rows, columns, rotary)
        start = parts.cls_token.expand(images.shape[0], -1, -1)
        tokens = torch.cat([start, parts.patch_embeddings(images)], dim=1)
        tokens = tokens + resized_positions(parts.position_embeddings, rows, columns)
        if self.prefix > 1:
            registers = parts.register_tokens.expand(images.shape[0], -1, -1)
            tokens = torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)
        return parts.dropout(tokens), TokenGrid(rows, columns, {})

    def run_block(self, number: int, tokens: Tensor, grid: TokenGrid, mask: Tensor | None = None) -> Tensor:
        """Return the tokens [N,T,C] after a block; patches are the last ones. ``mask`` [N,1,T,T]: True attends."""
        tokens = self.layers[number](tokens, attention_mask=mask, **grid.positions)
        if self.rein is None:
            return tokens
        first = tokens.shape[1] - grid.rows * grid.columns
        return torch.cat([tokens[:, :first], self.rein(tokens[:, first:], number)], dim=1)

    def as_map(self, tokens: Tensor, grid: TokenGrid) -> Tensor:
        """Return the patches among tokens [N,T,C] as a map [N,C,rows,columns]."""
        first = tokens.shape[1] - grid.rows * grid.columns
        return tokens[:, first:].transpose(1, 2).unflatten(2, (grid.rows, grid.columns))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the features."""
        tokens, grid = self.embed(images)
        found = []
        for number in range(len(self.layers)):
            tokens = self.run_block(number, tokens, grid)
            if number in self.blocks:
                found.append(self.as_map(self.norm(tokens), grid))
        return tuple(found)


@MODELS.register_module(force=True)
class StageBackbone(FoundationBackbone):
    """An encoder of four stages (Swin, ConvNeXt, DINOv3 ConvNeXt, ResNet): features at strides 4, 8, 16 and 32.

    ``levels`` false: those of the last stage alone.
    """

    def __init__(
        self, kind: str, settings: Mapping[str, Any], levels: bool = True, lora: Mapping[str, Any] | None = None
    ) -> None:
        names = [f"stage{number}" for number in range(1 if levels else 4, 5)]
        super().__init__(kind, settings, lora, out_features=names)
        if kind == "swin":
            self.encoder.swin.layernorm = nn.Identity()  # each level has a norm of its own

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the features."""
        return tuple(self.encoder(images).feature_maps)


MODELS.register_module(module=EfficientNetLite0, force=True)


@MODELS.register_module(force=True)
class ReinLite(EfficientNetLite0):
    """EfficientNet-Lite0 with Rein after the blocks that end a level.

    Rein's formula is for blocks of one width; the levels differ, so that each has tokens and linear layers of its own.
    A pixel of a level takes the place of a patch.
    """

    def __init__(self, rein: Mapping[str, Any], levels: bool = True) -> None:
        super().__init__(levels)
        sides = zip(LITE_CHANNELS, (4, 8, 16, 32), strict=True)
        self.rein = nn.ModuleList(Rein(1, width, side, **rein) for width, side in list(sides)[-len(self.taken) :])

    def refine(self, level: int, features: Tensor) -> Tensor:
        """Return the refined features [N,C,h,w] of a level."""
        tokens = self.rein[level](features.flatten(2).transpose(1, 2), 0)
        return tokens.transpose(1, 2).unflatten(2, features.shape[-2:])


def make_encoder(kind: str, settings: Mapping[str, Any]) -> Any:
    """Return an AutoBackbone with freshly initialised fp32 weights. Raises ModelError for impossible settings."""
    from transformers import CONFIG_MAPPING, AutoBackbone

    try:
        return AutoBackbone.from_config(CONFIG_MAPPING[kind](**settings), attn_implementation=_attention(kind))
    except Exception as error:  # the library raises many types for wrong sizes
        raise ModelError(
            f"the config of a {kind} encoder is not valid: {first_line(error)}", "download it again"
        ) from error


def read_weights(folder: Path, encoder: Any) -> dict[str, Tensor]:
    """Return the weights in ``folder`` by their names in ``encoder``, an AutoBackbone. Raises ModelError."""
    from transformers import CONFIG_MAPPING

    kind, settings = read_encoder(folder)
    built = encoder.config
    if kind != built.model_type:
        raise ModelError(f"{folder} holds a {kind} model, the encoder is {built.model_type}", "choose another folder")
    config = CONFIG_MAPPING[kind](**settings)
    if kind in TOKENS:
        config.num_hidden_layers = min(config.num_hidden_layers, built.num_hidden_layers)
    else:
        config.out_features = built.out_features
    try:
        with without_progress_bar():
            model, found = type(encoder).from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except Exception as error:  # a damaged file raises one of many library errors
        raise ModelError(f"{folder} cannot be read: {first_line(error)}", "download it again") from error
    missing = sorted(name for name in found["missing_keys"] if not any(part in name for part in _NEW))
    if missing:  # the library would initialize them at random
        raise ModelError(
            f"{folder} lacks {count_of(len(missing), 'weight')} of the encoder, the first is {missing[0]}",
            "download it again",
        )
    return dict(model.state_dict())


def resized_positions(embeddings: Tensor, rows: int, columns: int) -> Tensor:
    """Return position embeddings [1,1 + rows * columns,C] of a class token and a square grid [1,1 + side^2,C].

    The grid is resized bicubic in fp32.
    """
    side = int((embeddings.shape[1] - 1) ** 0.5)
    # While exporting, sizes are symbols, and comparing them would fix the size of the input.
    if not torch.compiler.is_exporting() and (rows, columns) == (side, side):
        return embeddings
    grid = embeddings[:, 1:].transpose(1, 2).unflatten(2, (side, side)).float()
    grid = functional.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
    return torch.cat([embeddings[:, :1], grid.flatten(2).transpose(1, 2).to(embeddings.dtype)], dim=1)


def _fitted(name: str, weight: Tensor, shape: torch.Size) -> Tensor:
    if weight.shape == shape:
        return weight
    if name.endswith(_POSITIONS):
        side = int((shape[1] - 1) ** 0.5)
        return resized_positions(weight, side, side)
    if _PATCHES in name and weight.ndim == 4 and weight.shape[:2] == shape[:2]:
        return functional.interpolate(weight, size=tuple(shape[2:]), mode="bicubic", align_corners=False)
    return weight


def _attention(kind: str) -> str | None:
    return None if kind in ("convnext", "dinov3_convnext", "resnet") else "sdpa"
