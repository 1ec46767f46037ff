"""Which encoder of transformers a recipe names: its ``config.json`` as plain data, from a folder or a hub id."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgkit.errors import ModelError, UsageError, shown
from dgkit.files import user_path
from dgkit.optional import first_line
from dgkit.segmenters.transformers import INDEX, WEIGHTS, network_settings, read_config_json
from dgkit.training.segmenter.network_pairs import STAGES, TOKENS, EncoderOptions

PATCH = 16  # the patch that errors suggest. Source: Wei et al., Rein (CVPR 2024), section 4.1
_FILES = ("config.json", WEIGHTS, INDEX, "model-*.safetensors")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class EncoderPlan:
    """Configs of ``backbone`` and ``neck`` and what the heads get.

    ``channels``: of the levels, finest first. ``divisor``: image sides must be multiples of it, None for any size.
    """

    backbone: dict[str, Any]
    channels: list[int]
    neck: dict[str, Any] | None = None
    divisor: int | None = None


def find_encoder(source: str) -> Path:
    """Return the folder of ``source``: a folder, or a hub id that is downloaded into the hub's cache.

    Without network the cached copy is used. Raises ModelError if there is none.
    """
    path = user_path(source)
    if path.is_dir():
        return path
    if not _HUB_ID.fullmatch(source):
        raise ModelError(f"{source} is neither a folder nor a hub id (owner/name)", "check backbone")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=list(_FILES)))
    except Exception as error:  # errors of the client, its HTTP library or the system
        raise ModelError(
            f"{source} is not a folder, and downloading it from the hub failed: {first_line(error)}",
            f"with network: hf download {source}",
        ) from error


def has_weights(folder: Path) -> bool:
    """Return whether ``folder`` holds weights. Raises ModelError if they are pickled, which dgkit does not read."""
    if (folder / WEIGHTS).is_file() or (folder / INDEX).is_file():
        return True
    if pickled := sorted(path.name for path in folder.glob("*.bin")):
        raise ModelError(
            f"{folder} holds pickled weights ({pickled[0]}); allowed: {WEIGHTS}", "save it with safe_serialization"
        )
    return False


def read_encoder(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the kind (of :data:`TOKENS` or :data:`STAGES`) and the settings of the encoder in ``folder``.

    Only keys that describe the network are read, since others make transformers import or download code. Raises
    ModelError.
    """
    from transformers import CONFIG_MAPPING

    config = read_config_json(folder / "config.json")
    kind = config.get("model_type")
    if kind not in (*TOKENS, *STAGES):
        raise ModelError(
            f"{folder} holds a {shown(kind)} model; allowed: {', '.join((*TOKENS, *STAGES))}",
            "choose another backbone",
        )
    if config.get("num_channels", 3) != 3:
        raise ModelError(f"{folder} takes images of {shown(config['num_channels'])} channels; allowed: 3", "use RGB")
    known = {name for name in CONFIG_MAPPING[kind].__annotations__ if not name.startswith("_")}
    try:
        return kind, network_settings(config, known)
    except ValueError as error:
        raise ModelError(f"{folder / 'config.json'}: {error}", "download it again") from error


def plan_encoder(source: str, crop: int, options: EncoderOptions, levels: bool) -> EncoderPlan:
    """Return the encoder ``source`` (without "transformers:") for crops of ``crop`` pixels.

    ``levels``: four levels at strides 4 to 32; else the last features alone. Raises ModelError, and UsageError for
    options that do not fit it.
    """
    kind, settings = read_encoder(find_encoder(source))
    if kind in TOKENS:
        return _plan_tokens(kind, settings, crop, options, levels)
    wrong = "rein" if options.rein else "patch" if options.patch else "blocks" if options.blocks else None
    wrong = "lora" if options.lora and kind != "swin" else wrong
    if wrong:
        allowed = f"{', '.join(TOKENS)}{', swin' if wrong == 'lora' else ''}"
        raise UsageError(
            f"{wrong} cannot be combined with a {kind} encoder; allowed: {allowed}", f"remove it: --set {wrong}=null"
        )
    backbone = {"type": "StageBackbone", "kind": kind, "settings": settings, "levels": levels}
    if options.lora:
        backbone["lora"] = dict(options.lora)
    channels = stage_channels(settings, kind)
    return EncoderPlan(backbone, channels if levels else channels[-1:])


def stage_channels(settings: Mapping[str, Any], kind: str) -> list[int]:
    """Return the channels of the four stages of an encoder of :data:`STAGES`."""
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[kind](**settings)
    if kind == "swin":
        return [int(config.embed_dim * 2**stage) for stage in range(len(config.depths))]
    return [int(width) for width in config.hidden_sizes]


def _plan_tokens(kind: str, settings: dict[str, Any], crop: int, options: EncoderOptions, levels: bool) -> EncoderPlan:
    from transformers import CONFIG_MAPPING

    config = CONFIG_MAPPING[kind](**settings)
    patch = options.patch or int(config.patch_size)
    if crop % patch:
        raise UsageError(
            f"data.crop={crop} is not a multiple of the encoder's patch of {patch} pixels",
            f"add --set patch={PATCH}, which resizes the patches, or --set data.crop={max(1, crop // patch) * patch}",
        )
    count, width = int(config.num_hidden_layers), int(config.hidden_size)
    blocks = list(options.blocks or (count * number // 4 - 1 for number in (1, 2, 3, 4)))
    if blocks[-1] >= count or sorted(set(blocks)) != blocks or len(blocks) != 4 or blocks[0] < 0:
        raise UsageError(
            f"blocks={blocks} are not four increasing numbers below {count}, the number of blocks of the encoder",
            "add --set blocks=null for evenly spaced ones",
        )
    used = settings | {"patch_size": patch, "image_size": crop, "num_hidden_layers": blocks[-1] + 1}
    backbone: dict[str, Any] = {"type": "TokenBackbone", "kind": kind, "settings": used}
    backbone["blocks"] = blocks if levels else blocks[-1:]
    for name, chosen in (("rein", options.rein), ("lora", options.lora)):
        if chosen is not None:
            backbone[name] = dict(chosen)
    if not levels:
        return EncoderPlan(backbone, [width], divisor=patch)
    # Two transposed convolutions, one, none, max-pooling: strides of a quarter, a half, one and two patches.
    neck = {"type": "Feature2Pyramid", "embed_dim": width, "rescales": [4, 2, 1, 0.5], "norm_cfg": {"type": "BN"}}
    return EncoderPlan(backbone, [width] * 4, neck, patch)
