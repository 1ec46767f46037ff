"""Reading one part of a model folder: its config and its safetensors file, with every key and shape checked.

Nothing in a model folder is executed: classes are chosen here, never by a name in a file, and pickled weights are
refused. Parts are built without random initialisation, so that peak memory is one copy of the weights.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dgkit.errors import ModelError


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


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ModelError if the file is missing, unreadable or has other content."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing", "a model folder has the diffusers Stable Diffusion layout") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} contains a {type(value).__name__}; expected a JSON object")
    return value


def read_config(folder: Path, part: str) -> dict[str, Any]:
    """Read ``config.json`` of a part folder. Raises ModelError if it describes another class."""
    config = read_json(folder / "config.json")
    known = PARTS[part].class_names
    named = config.get("_class_name") or next(iter(config.get("architectures") or ()), known[0])
    if named not in known:
        raise ModelError(f"{folder / 'config.json'} describes a {named}; expected {' or '.join(known)}")
    return config


def weights_file(folder: Path, part: str) -> Path:
    """Return the safetensors file of a part folder, preferably in full precision. Raises ModelError without one."""
    stem = PARTS[part].stem
    for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors"):
        if (folder / name).is_file():
            return folder / name
    pickles = sorted(path.name for suffix in ("bin", "pt", "pth", "ckpt") for path in folder.glob(f"*.{suffix}"))
    if pickles:
        raise ModelError(
            f"{folder} has only pickled weights ({pickles[0]}), which can execute code; expected {stem}.safetensors",
            f'convert: python -c "import torch; from safetensors.torch import save_file; '
            f"save_file(torch.load('{folder / pickles[0]}', weights_only=True), '{folder / stem}.safetensors')\"",
        )
    raise ModelError(f"{folder / stem}.safetensors is missing")


def read_shapes(folder: Path, part: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a part by the names of the current classes; reads the header only."""
    path = weights_file(folder, part)
    with _open(path) as file:
        return {_modern(key, part): tuple(file.get_slice(key).get_shape()) for key in _keys(file, part)}


def read_weights(folder: Path, part: str) -> dict[str, Tensor]:
    """Read every tensor of a part. Raises ModelError for a damaged file or a value that is not finite."""
    tensors = {}
    for key, tensor in _finite(weights_file(folder, part), part):
        name = _modern(key, part)
        tensors[name] = _fit_linear(name, tensor) if part == "vae" else tensor
    return tensors


def check_finite(folder: Path, part: str) -> None:
    """Raise ModelError if a weight is not finite; keeps one tensor in memory at a time."""
    for _ in _finite(weights_file(folder, part), part):
        pass


def build(folder: Path, part: str, config: Mapping[str, Any]) -> nn.Module:
    """Return the part with its weights, in the precision of the file, in inference mode."""
    module = skeleton(folder, part, config)
    weights = read_weights(folder, part)
    check_keys({k: tuple(v.shape) for k, v in weights.items()}, module, folder)
    module.load_state_dict(_named_for(module, weights), strict=True, assign=True)
    for name, buffer in list(module.named_buffers()):
        if buffer.is_meta:  # not in the file; CLIP's position ids are the only such buffer
            owner = module.get_submodule(name.rpartition(".")[0])
            setattr(owner, name.rpartition(".")[2], torch.arange(buffer.shape[-1]).expand(buffer.shape))
    return module.eval().requires_grad_(False)


def skeleton(folder: Path, part: str, config: Mapping[str, Any]) -> nn.Module:
    """Return the part that a config describes, on the meta device. Raises ModelError if it cannot be built."""
    try:
        with torch.device("meta"):
            return construct(part, config)
    except (TypeError, ValueError, KeyError, IndexError, NotImplementedError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{folder / 'config.json'} cannot be built: {reason}") from error


def check_keys(found: Mapping[str, tuple[int, ...]], module: nn.Module, folder: Path) -> None:
    """Raise ModelError unless names and shapes are exactly those of ``module``."""
    expected = {_plain(key): tuple(value.shape) for key, value in module.state_dict().items()}
    missing, surplus = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or surplus:
        text = "; ".join(
            f"{len(keys)} {word} ({', '.join(keys[:2])}{', ...' if len(keys) > 2 else ''})"
            for word, keys in (("missing", missing), ("not in the config", surplus))
            if keys
        )
        raise ModelError(f"the weights in {folder} do not fit its config.json: {text}")
    for key, shape in expected.items():
        if found[key] != shape:
            sizes = f"{key} is {list(found[key])}, expected {list(shape)}"
            raise ModelError(f"the weights in {folder} do not fit its config.json: {sizes}")


def construct(part: str, config: Mapping[str, Any]) -> nn.Module:
    """Return the part that a config describes, newly initialised. Raises what its class raises."""
    if part == "text_encoder":
        from transformers import CLIPTextConfig, CLIPTextModel

        text: nn.Module = CLIPTextModel(CLIPTextConfig.from_dict(dict(config)))
        return text
    import diffusers

    values = {key: value for key, value in config.items() if not key.startswith("_name")}
    module: nn.Module = getattr(diffusers, PARTS[part].class_names[0]).from_config(values)
    return module


def _finite(path: Path, part: str) -> Iterator[tuple[str, Tensor]]:
    """Yield name and tensor. Raises ModelError at the first value that is not finite."""
    with _open(path) as file:
        for key in _keys(file, part):
            tensor = file.get_tensor(key)
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ModelError(f"{path}: {key} contains NaN or infinity", "train or download the weights again")
            yield key, tensor


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged: {error}", "download or copy the file again") from None


def _keys(file: Any, part: str) -> list[str]:
    """Return the tensor names without CLIP's position ids, which older files contain and newer classes compute."""
    names: list[str] = file.keys()
    return [key for key in names if not (part == "text_encoder" and key.endswith("position_ids"))]


def _modern(key: str, part: str) -> str:
    if part == "text_encoder":
        return _plain(key)
    if part == "vae" and ".attentions." in key:  # names of diffusers before 0.18, in the published Stable Diffusion VAE
        for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
            key = key.replace(f".{old}.", f".{new}.")
    return key


def _fit_linear(name: str, tensor: Tensor) -> Tensor:
    """Flatten attention projections, which the oldest VAE files store as 1x1 convolutions."""
    return tensor.flatten(1) if ".attentions." in name and tensor.ndim == 4 else tensor


def _plain(key: str) -> str:
    """Remove the prefix of published CLIP text models, which Transformers 5 no longer uses."""
    return key.removeprefix("text_model.")


def _named_for(module: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: weights[_plain(key)] for key in module.state_dict()}
