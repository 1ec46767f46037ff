"""Loads pretrained encoder weights: files of mmsegmentation, and SegFormer encoders of transformers."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dgkit.errors import ModelError
from dgkit.files import open_regular, user_path
from dgkit.optional import first_line, require
from dgkit.segmenters.efficientnet_lite import IMAGENET, EfficientNetLite0
from dgkit.segmenters.transformers import read_network_config
from dgkit.training.loop.integrity import check_finite
from dgkit.training.segmenter.foundation_backbones import FoundationBackbone
from dgkit.training.segmenter.foundation_config import find_encoder, has_weights
from dgkit.training.segmenter.network_pairs import LITE, PREFIX
from dgkit.training.segmenter.segmenter_recipe import RANDOM, SegmenterRecipe

_HINT = "use a .pth or .safetensors file of the encoder, or a transformers model such as nvidia/mit-b5"
_PREFIXES = ("backbone.", "segformer.", "encoder.")


def initial_weights(recipe: SegmenterRecipe) -> str | None:
    """Return the weights that the encoder starts from, for :func:`load_encoder`; None for random ones.

    Raises ModelError if the folder of an encoder cannot be found.
    """
    if recipe.pretrained is not None:
        return None if recipe.pretrained == RANDOM else recipe.pretrained
    if recipe.backbone.startswith(PREFIX):
        source = recipe.backbone.removeprefix(PREFIX)
        return source if has_weights(find_encoder(source)) else None
    return IMAGENET if recipe.backbone == LITE else None


def load_encoder(backbone: nn.Module, pretrained: str) -> int:
    """Copy the weights ``pretrained`` into ``backbone``.

    A foundation backbone loads its own. Else it is mmsegmentation's MixVisionTransformer or ResNetV1c: a file has
    mmsegmentation's names, with or without "backbone."; a folder or hub id is a transformers SegFormer. Weights of
    classifiers and heads are skipped. Returns the number of tensors copied. Raises ModelError if weights are
    missing, have other shapes, are not finite or cannot be read.
    """
    if isinstance(backbone, FoundationBackbone | EfficientNetLite0):
        return backbone.load_pretrained(pretrained)
    state = _without_prefix(_read(pretrained))
    if any(f".{query}." in name for name in state for query in _QUERY):
        state = from_transformers(state)
    wanted = backbone.state_dict()
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    if missing:
        raise ModelError(
            f"{pretrained} lacks {len(missing)} of {len(wanted)} tensors, the first is {missing[0]}", _HINT
        )
    chosen = {name: state[name] for name in wanted if name in state}
    for name, value in chosen.items():
        if value.shape != wanted[name].shape:
            raise ModelError(
                f"{pretrained}: {name} has shape {list(value.shape)}, the encoder needs {list(wanted[name].shape)}",
                "choose the backbone that these weights belong to",
            )
    check_finite(chosen, pretrained, "download the weights again")
    backbone.load_state_dict(chosen, strict=False)
    return len(chosen)


# Names within a block; transformers 5 renamed them, existing files keep the older ones.
_BLOCK = {
    "layer_norm_1": "norm1",
    "layernorm_before": "norm1",
    "layer_norm_2": "norm2",
    "layernorm_after": "norm2",
    "attention.self.sr": "attn.sr",
    "attention.sequence_reduction.sequence_reduction": "attn.sr",
    "attention.self.layer_norm": "attn.norm",
    "attention.sequence_reduction.layer_norm": "attn.norm",
    "attention.output.dense": "attn.attn.out_proj",
    "attention.o_proj": "attn.attn.out_proj",
    "mlp.dense1": "ffn.layers.0",
    "mlp.fc1": "ffn.layers.0",
    "mlp.dwconv.dwconv": "ffn.layers.1",
    "mlp.dense2": "ffn.layers.4",
    "mlp.fc2": "ffn.layers.4",
}
_LINEAR = frozenset({"mlp.dense1", "mlp.fc1", "mlp.dense2", "mlp.fc2"})
_QUERY = {
    "attention.self.query": ("attention.self.key", "attention.self.value"),
    "attention.q_proj": ("attention.k_proj", "attention.v_proj"),
}
_PATCH = re.compile(r"(?:stages\.(\d+)\.patch_embeddings|patch_embeddings\.(\d+))\.(proj|layer_norm)\.(weight|bias)")
_NORM = re.compile(r"(?:stages\.(\d+)\.layer_norm|layer_norm\.(\d+))\.(weight|bias)")
_LAYER = re.compile(r"((?:stages\.(\d+)\.blocks|block\.(\d+))\.(\d+)\.)(.+)\.(weight|bias)")


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a SegFormer encoder of transformers to names and shapes of mmsegmentation's MixVisionTransformer.

    Query, key and value become one matrix; the linear layers of the feed-forward part become 1x1 convolutions.
    """
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if match := _PATCH.fullmatch(name):
            part = {"proj": "projection", "layer_norm": "norm"}[match[3]]
            found[f"layers.{match[1] or match[2]}.0.{part}.{match[4]}"] = value
        elif match := _NORM.fullmatch(name):
            found[f"layers.{match[1] or match[2]}.2.{match[3]}"] = value
        elif match := _LAYER.fullmatch(name):
            place, layer, kind = f"layers.{match[2] or match[3]}.1.{match[4]}", match[5], match[6]
            if layer in _QUERY:
                others = [state[f"{match[1]}{other}.{kind}"] for other in _QUERY[layer]]
                found[f"{place}.attn.attn.in_proj_{kind}"] = torch.cat([value, *others])
            elif layer in _BLOCK:
                convolution = layer in _LINEAR and kind == "weight"
                found[f"{place}.{_BLOCK[layer]}.{kind}"] = value[:, :, None, None] if convolution else value
    return found


def _read(pretrained: str) -> dict[str, Tensor]:
    path = user_path(pretrained)
    try:
        if path.suffix == ".safetensors":
            with open_regular(path):  # a pipe would wait for a writer
                return load_file(path)
        if path.is_file():
            content = torch.load(path, map_location="cpu", weights_only=True)
            state = content.get("state_dict", content) if isinstance(content, Mapping) else {}
            return {name: value for name, value in state.items() if isinstance(value, Tensor)}
        if path.suffix in (".pth", ".pt"):
            raise ModelError(f"{path}: no such file", _HINT)
        return _read_transformers(path if path.is_dir() else pretrained)
    except (OSError, ValueError, RuntimeError, SafetensorError, EOFError) as error:
        raise ModelError(f"{pretrained} cannot be read: {first_line(error)}", _HINT) from error
    except Exception as error:  # pickle's UnpicklingError, which torch raises but does not export
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{pretrained} is not a plain file of weights: {first_line(error)}", _HINT) from error


def _read_transformers(source: Path | str) -> dict[str, Tensor]:
    """Return the weights of a SegFormer encoder in a folder or of a hub id; nothing in a folder is executed."""
    model: Any = require("transformers", "train").SegformerModel
    known = {"config": read_network_config(source), "local_files_only": True} if isinstance(source, Path) else {}
    return dict(model.from_pretrained(source, **known).state_dict())


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = dict(state)
    for prefix in _PREFIXES:
        if any(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found
