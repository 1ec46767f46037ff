"""LoRA files: reading them, checking that they fit a prior, and fusing them into its parts with diffusers and peft."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dgkit.diffusion.hub import find_lora_file
from dgkit.diffusion.part_config import TEXT_ENCODERS
from dgkit.diffusion.weight_files import WeightFiles, finite_tensors
from dgkit.errors import ModelError, UsageError, one_line, shown
from dgkit.files import digest_file
from dgkit.optional import require

EXAMPLE = "use for example --lora style.safetensors:0.8"
# What a key contains that is no plain LoRA; diffusers would drop it or fail.
_OTHER_KINDS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "lora_mid": "LoCon with a Tucker decomposition",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "oft_": "OFT",
    "boft_": "BOFT",
    "glora": "GLoRA",
}
_TRANSFORMERS = ("transformer.", "lora_transformer_", "diffusion_model.", "double_blocks", "single_blocks")
# Settings of an adapter that change its effect. Others may name modules that peft would import.
_METADATA = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")
_ADAPTER = "dgkit"
_WEIGHT = re.compile(r"(.+)\.lora_([AB])\.weight")
_NAMED_KEYS = 3  # in messages


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file and its scale; ``source`` is the file or hub id as it was given."""

    source: str
    path: Path
    scale: float = 1.0

    @cached_property
    def digest(self) -> str:
        """The SHA-256 (hex) of the file."""
        return digest_file(self.path)

    def word(self) -> str:
        """Return the value of ``--lora`` that names this LoRA."""
        return self.source if self.scale == 1.0 else f"{self.source}:{self.scale:g}"

    def record(self) -> dict[str, Any]:
        """Return name, digest and scale, as records keep them."""
        return {"name": self.path.name, "digest": self.digest, "scale": self.scale}


def split_scale(text: str) -> tuple[str, float]:
    """Return source and scale of ``FILE_OR_HUB[:scale]``. Raises UsageError for a scale that is no finite number."""
    source, colon, word = text.rpartition(":")
    if not colon or "/" in word or "." in word.strip("0123456789.eE+-") or Path(text).exists():
        return text, 1.0
    try:
        scale = float(word)
    except ValueError:
        raise UsageError(f"LoRA {shown(text)}: the scale {shown(word)} is not a number", EXAMPLE) from None
    if not math.isfinite(scale):
        raise UsageError(f"LoRA {shown(text)}: the scale is {scale}; expected a finite number", EXAMPLE)
    return source, scale


def find_loras(texts: Sequence[str]) -> tuple[LoraFile, ...]:
    """Return the LoRA of each ``FILE_OR_HUB[:scale]``, downloading files of hub ids that are not in the cache.

    Raises UsageError for a scale that is no finite number, ModelError for a file that is missing or pickled.
    """
    pairs = [split_scale(text) for text in texts]
    return tuple(LoraFile(source, find_lora_file(source), scale) for source, scale in pairs)


@dataclass(frozen=True)
class Adapter:
    """The weights of a LoRA in diffusers' names, with alphas or adapter settings by name if the file has them."""

    lora: LoraFile
    weights: dict[str, Tensor]
    alphas: dict[str, float] | None
    metadata: dict[str, Any] | None

    def of(self, part: str) -> dict[str, Tensor]:
        """Return the weights of a part, by peft's names without the name of the part."""
        from diffusers.utils import (
            convert_state_dict_to_diffusers,
            convert_state_dict_to_peft,
            convert_unet_state_dict_to_peft,
        )

        own = {key.removeprefix(f"{part}."): value for key, value in self.weights.items() if key.startswith(f"{part}.")}
        if not own:
            return {}
        if part in TEXT_ENCODERS:
            found: dict[str, Tensor] = convert_state_dict_to_peft(convert_state_dict_to_diffusers(own))
            return found
        unet: dict[str, Tensor] = own if "lora_A" in next(iter(own)) else convert_unet_state_dict_to_peft(own)
        return unet


def read_adapter(lora: LoraFile, unet_config: Mapping[str, Any], parts: Sequence[str]) -> Adapter:
    """Read a LoRA in the formats of diffusers, peft and kohya, for a prior with ``parts`` and ``unet_config``.

    Raises ModelError for a damaged file, values that are not finite, another kind of adapter, and names that diffusers
    does not know; MissingDependency without peft.
    """
    require("peft", "lora")
    from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin

    two = "text_encoder_2" in parts
    loader: Any = StableDiffusionXLLoraLoaderMixin if two else StableDiffusionLoraLoaderMixin
    names = [name for name, _ in finite_tensors(WeightFiles((lora.path,)), "lora")]
    _check_kind(lora, names)
    try:
        weights, alphas, metadata = loader.lora_state_dict(
            str(lora.path.parent), weight_name=lora.path.name, local_files_only=True, use_safetensors=True,
            return_lora_metadata=True, **({"unet_config": _Config(unet_config)} if two else {}),
        )  # fmt: skip
    except Exception as error:  # names of another family can raise many different errors
        raise _unfit(lora, names, one_line(str(error), 160) or type(error).__name__) from error
    for name, alpha in (alphas or {}).items():
        if not math.isfinite(alpha):
            raise ModelError(f"the LoRA {lora.path}: alpha of {one_line(name, 100)} is {alpha}")
    return Adapter(lora, weights, alphas, _plain_metadata(lora, metadata))


class _Config(dict[str, Any]):
    """A config whose entries are attributes, too, as diffusers reads them."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name, 2 if name == "layers_per_block" else None)


def _check_kind(lora: LoraFile, names: Sequence[str]) -> None:
    for mark, kind in _OTHER_KINDS.items():
        found = next((name for name in names if mark in name), None)
        if found is not None:
            raise ModelError(
                f"{lora.path} is a {kind} ({one_line(found, 100)}), which is not supported",
                "supported: LoRA of linear and convolution layers, in the formats of diffusers, peft and kohya",
            )
    other = next((name for name in names if name.startswith(_TRANSFORMERS)), None)
    if other is not None:
        raise ModelError(
            f"{lora.path} is a LoRA for a transformer such as SD3 or FLUX ({one_line(other, 100)})",
            "use a LoRA for the family of the prior",
        )


def _plain_metadata(lora: LoraFile, metadata: Any) -> dict[str, Any] | None:
    """Return the settings of an adapter that change its effect. Raises ModelError for DoRA."""
    if not isinstance(metadata, dict) or not metadata:
        return None
    if any(str(key).endswith(".use_dora") and value for key, value in metadata.items()):
        raise ModelError(f"{lora.path} is a DoRA, which is not supported", "use a plain LoRA")
    return {key: value for key, value in metadata.items() if str(key).rpartition(".")[2] in _METADATA}


def check_adapter(adapter: Adapter, modules: Mapping[str, nn.Module]) -> tuple[str, ...]:
    """Return the parts that a LoRA changes, of the parts ``modules``, which may be on the meta device.

    Raises ModelError unless each of its weights has a layer, of the same sizes.
    """
    lora, used = adapter.lora, {name: adapter.of(name) for name in modules}
    known = tuple(f"{name}." for name in modules)
    unknown = [key for key in adapter.weights if not key.startswith(known)]
    for part, weights in used.items():
        layers = dict(modules[part].named_modules())
        for key, weight in weights.items():
            match = _WEIGHT.fullmatch(key)
            layer = layers.get(match[1].removeprefix("text_model.")) if match else None
            layer = layers.get(match[1]) if match and layer is None else layer
            if match is None or not isinstance(layer, nn.Linear | nn.Conv2d):
                unknown.append(f"{part}.{key}")
                continue
            _check_sizes(lora, f"{part}.{key}", weight, layer.weight, down=match[2] == "A")
    if unknown or not adapter.weights:
        raise _unfit(lora, unknown, f"{len(unknown)} of {len(adapter.weights)} weights have no layer in the prior")
    return tuple(part for part, weights in used.items() if weights)


def _check_sizes(lora: LoraFile, name: str, weight: Tensor, base: Tensor, down: bool) -> None:
    found, expected = (weight.shape[1:], base.shape[1:]) if down else (weight.shape[:1], base.shape[:1])
    if tuple(found) != tuple(expected):
        raise ModelError(
            f"the LoRA {lora.path} is for another model: {name} is {list(weight.shape)}, its layer {list(base.shape)}",
            "use a LoRA for the family of the prior",
        )


def _unfit(lora: LoraFile, names: Sequence[str], reason: str) -> ModelError:
    listed = ", ".join(one_line(name, 100) for name in list(names)[:_NAMED_KEYS])
    more = ", ..." if len(names) > _NAMED_KEYS else ""
    return ModelError(
        f"the LoRA {lora.path} does not fit the prior: {reason}{f' ({listed}{more})' if listed else ''}",
        "use a LoRA for the family of the prior",
    )


def fuse(adapter: Adapter, part: str, module: nn.Module) -> nn.Module:
    """Add a LoRA to the weights of a part, in place, and return the part in inference mode."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader
    from diffusers.loaders.lora_base import _remove_text_encoder_monkey_patch, fuse_text_encoder_lora

    loaded: Any = module
    metadata = _settings_of(adapter, part, module)
    if part in TEXT_ENCODERS:
        Loader.load_lora_into_text_encoder(
            adapter.weights, adapter.alphas, loaded, part, adapter_name=_ADAPTER, metadata=metadata
        )
        fuse_text_encoder_lora(loaded, adapter.lora.scale, adapter_names=[_ADAPTER])
        _remove_text_encoder_monkey_patch(loaded)
    else:
        Loader.load_lora_into_unet(adapter.weights, adapter.alphas, loaded, adapter_name=_ADAPTER, metadata=metadata)
        loaded.fuse_lora(adapter.lora.scale, adapter_names=[_ADAPTER])
        loaded.unload_lora()
    return module.eval().requires_grad_(False)


def _settings_of(adapter: Adapter, part: str, module: nn.Module) -> dict[str, Any] | None:
    """Return the settings of an adapter in its file for a part, with the layers that it has weights of."""
    if adapter.metadata is None:
        return None
    layers = {name for name, _ in module.named_modules()}
    found = {match[1] for match in map(_WEIGHT.fullmatch, adapter.of(part)) if match}
    targets = sorted(name if name in layers else name.removeprefix("text_model.") for name in found)
    return {**adapter.metadata, f"{part}.target_modules": targets}
