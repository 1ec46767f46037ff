"""Configs of a model folder: JSON files, the keys of each part that are used, and limits on their values.

A config is data. Only keys that the class of a part takes as plain numbers, words and lists reach that class. Every
other key has no effect, such as ``attn_implementation``, ``quantization_config`` or ``auto_map``, with which diffusers
or transformers import or download.
"""

import functools
import importlib
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgkit.documents import DocumentError, parse_config_json, read_bytes
from dgkit.errors import ModelError, one_line, shown
from dgkit.imports import collection_paused


@dataclass(frozen=True)
class Part:
    """A sub-folder of a model: the classes that its config may name, and the stem of its weights file."""

    name: str
    class_names: tuple[str, ...]
    stem: str = "diffusion_pytorch_model"


PARTS = {
    part.name: part
    for part in (
        Part("unet", ("UNet2DConditionModel",)),
        Part("controlnet", ("ControlNetModel",)),
        Part("vae", ("AutoencoderKL",)),
        Part("text_encoder", ("CLIPTextModel",), "model"),
    )
}
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
KNOWN_PARTS = PARTS | {"text_encoder_2": Part("text_encoder_2", ("CLIPTextModelWithProjection",), "model")}
"""The parts of every model, and those that only SDXL has."""
SUPPORTED = "Stable Diffusion 1.x and 2.x, SDXL"
SDXL_INDEX = {
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
}
"""What ``model_index.json`` of SDXL lists in addition."""
TEXT_KEYS = frozenset(
    {
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "projection_dim",
        "num_hidden_layers",
        "num_attention_heads",
        "hidden_act",
        "max_position_embeddings",
        "layer_norm_eps",
        "attention_dropout",
        "initializer_range",
        "initializer_factor",
        "pad_token_id",
        "bos_token_id",
        "eos_token_id",
    }
)
MAX_NUMBER = 2**20  # of any value: the largest real one is the size of a vocabulary
MAX_ITEMS = 64  # of a list: statistics of latent channels
MAX_LEVELS = 10  # of a network, each of half the size
MAX_LAYERS = 64  # of one level, transformer layers in all of its blocks included
_WHOLE = {  # keys that dgkit itself reads, with the smallest value
    "unet": {"sample_size": 1, "in_channels": 1, "out_channels": 1},
    "controlnet": {"conditioning_channels": 1, "in_channels": 1},
    "vae": {"latent_channels": 1, "in_channels": 1, "out_channels": 1},
    "text_encoder": {"hidden_size": 1, "max_position_embeddings": 1, "vocab_size": 1},
    "text_encoder_2": {"hidden_size": 1, "max_position_embeddings": 1, "vocab_size": 1, "projection_dim": 1},
}
_WHOLE_LISTS = {
    "unet": ("block_out_channels",),
    "controlnet": ("block_out_channels", "conditioning_embedding_out_channels"),
    "vae": ("block_out_channels",),
    **dict.fromkeys(TEXT_ENCODERS, ()),
}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, with or without a byte order mark.

    Raises ModelError if the file is missing, unreadable, too long or has other content.
    """
    try:
        value = parse_config_json(read_bytes(path))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing", "a model folder has the diffusers Stable Diffusion layout") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None
    except DocumentError as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} contains a {type(value).__name__}; expected a JSON object")
    return value


def read_config(folder: Path, part: str) -> dict[str, Any]:
    """Read ``config.json`` of a part folder, whole: the digest of a model covers it as it is.

    Raises ModelError if it describes another class or has values that no network can have.
    """
    path = folder / "config.json"
    config = read_json(path)
    known = KNOWN_PARTS[part].class_names
    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else architectures
    named = config.get("_class_name") or first or known[0]
    if named not in known:
        raise ModelError(f"{path} describes a {one_line(str(named), 80)}; expected {' or '.join(known)}")
    if part in TEXT_ENCODERS:  # other parts are checked before they are built: to import diffusers takes seconds
        check_limits(part, config, path)
    _check_types(part, config, path)
    return config


@functools.cache
def part_class(part: str) -> Any:
    """Return the class of diffusers or transformers that a part is made from. The first imports take seconds."""
    with collection_paused():
        library = importlib.import_module("transformers" if part in TEXT_ENCODERS else "diffusers")
        return getattr(library, KNOWN_PARTS[part].class_names[0])


def import_classes() -> None:
    """Import the classes of all parts ahead of their use."""
    for part in PARTS:
        part_class(part)


def used_keys(part: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a config that the class of the part takes; all others have no effect."""
    if part in TEXT_ENCODERS:
        known = TEXT_KEYS
    else:
        parameters = inspect.signature(part_class(part).__init__).parameters
        known = frozenset(parameters) - {"self", "args", "kwargs"}
    return {key: value for key, value in config.items() if key in known}


def _check_types(part: str, config: Mapping[str, Any], path: Path) -> None:
    for key, least in _WHOLE[part].items():
        value = config.get(key, least)
        if key == "sample_size" and (value is None or isinstance(value, list)):
            raise ModelError(f"{path}: sample_size is {shown(value)}; expected a number of latent cells")
        if not _is_whole(value) or value < least:
            raise ModelError(f"{path}: {key} is {shown(value)}; expected a whole number of at least {least}")
    for key in _WHOLE_LISTS[part]:
        value = config.get(key)
        if value is None:
            continue
        if not (isinstance(value, list) and value and all(_is_whole(item) and item > 0 for item in value)):
            raise ModelError(f"{path}: {key} is {shown(value)}; expected a list of whole numbers")
        if len(value) > MAX_LEVELS:
            raise ModelError(f"{path}: {key} has {len(value)} levels; supported: up to {MAX_LEVELS}")
    scale = config.get("scaling_factor", 1.0)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale) or scale == 0:
        raise ModelError(f"{path}: scaling_factor is {shown(scale)}; expected a number")


def check_limits(part: str, config: Mapping[str, Any], path: Path) -> None:
    """Raise ModelError for values that would take minutes or gigabytes to build, or that no part can be built from."""
    largest = {key: int(_largest(key, value, path)) for key, value in used_keys(part, config).items()}
    inner = max(largest.get(f"{order}transformer_layers_per_block", 1) for order in ("", "reverse_"))
    outer = max(largest.get(key, 1) for key in ("layers_per_block", "num_hidden_layers"))
    layers = max(1, inner) * max(1, outer)
    if layers > MAX_LAYERS:
        raise ModelError(f"{path}: {layers} layers in a level of the network; supported: up to {MAX_LAYERS}")


def _largest(key: str, value: Any, path: Path, depth: int = 0) -> float:
    """Return the largest number in a value. Raises ModelError for a value that is none of number, word, list."""
    if isinstance(value, list | tuple) and depth < 3:  # a tuple in the config of a random model
        if len(value) > MAX_ITEMS:
            raise ModelError(f"{path}: {key} has {len(value)} entries; supported: up to {MAX_ITEMS}")
        return max((_largest(key, item, path, depth + 1) for item in value), default=0.0)
    if value is None or isinstance(value, bool):
        return 0.0
    if isinstance(value, int | float) and abs(value) <= MAX_NUMBER:
        return float(value)
    if isinstance(value, str) and len(value) <= 100:
        return 0.0
    raise ModelError(f"{path}: {key} is {shown(value)}, which no network has")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
