"""Reading one part of a model folder: its config and its safetensors file, with every key and shape checked.

Nothing in a model folder is executed: classes are chosen here, never by a name in a file, and pickled weights are
refused. Parts are built without random initialisation, so that peak memory is one copy of the weights.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dgkit.diffusion.part_config import TEXT_ENCODERS, check_limits, part_class, used_keys
from dgkit.diffusion.weight_files import find_weights, finite_tensors, open_tensors
from dgkit.errors import ModelError, one_line


def read_shapes(folder: Path, part: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a part by the names of the current classes; reads the headers only."""
    shapes = {}
    for key, file, _ in open_tensors(find_weights(folder, part), part):
        name, shape = _modern(key, part), tuple(file.get_slice(key).get_shape())
        shapes[name] = shape[:2] if _is_old_attention(name, part, shape) else shape
    return shapes


def read_weights(folder: Path, part: str) -> dict[str, Tensor]:
    """Read every tensor of a part. Raises ModelError for a damaged file or a value that is not finite."""
    tensors = {}
    for key, tensor in finite_tensors(find_weights(folder, part), part):
        name = _modern(key, part)
        tensors[name] = tensor.flatten(1) if _is_old_attention(name, part, tuple(tensor.shape)) else tensor
    return tensors


def save_weights(module: nn.Module, folder: Path, part: str, path: Path) -> None:
    """Write the weights of a part to one safetensors file, under the names and in the precision of those in ``folder``.

    Raises OSError if it cannot be written.
    """
    from safetensors.torch import save_file

    own = {_plain(name): tensor for name, tensor in module.state_dict().items()}
    names = [name for name, _, _ in open_tensors(find_weights(folder, part), part)]
    path.touch()
    mode = path.stat().st_mode
    save_file({name: own[_modern(name, part)].contiguous() for name in names}, path, metadata={"format": "pt"})
    path.chmod(mode)  # the library gives the file to its owner alone


def save_part(module: Any, folder: Path) -> None:
    """Call ``save_pretrained`` of a network of diffusers or transformers, with weights that others may read too.

    The library gives them to their owner alone.
    """
    module.save_pretrained(folder)
    for weights in folder.glob("*.safetensors"):
        shutil.copymode(folder / "config.json", weights)


def check_finite(folder: Path, part: str) -> None:
    """Raise ModelError if a weight is not finite; keeps one tensor in memory at a time."""
    for _ in finite_tensors(find_weights(folder, part), part):
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
    check_limits(part, config, folder / "config.json")
    try:
        with torch.device("meta"):
            return construct(part, config)
    except Exception as error:  # a wrong value can raise many different library errors
        reason = one_line(str(error)) or type(error).__name__
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
    values = used_keys(part, config)
    if part in TEXT_ENCODERS:
        from transformers import CLIPTextConfig

        settings = CLIPTextConfig(**values)
        settings._attn_implementation = "sdpa"  # also the default of transformers
        text: nn.Module = part_class(part)(settings)
        return text
    module: nn.Module = part_class(part).from_config(values)
    return module


def _modern(key: str, part: str) -> str:
    if part in TEXT_ENCODERS:
        return _plain(key)
    if part == "vae" and ".attentions." in key:  # names of diffusers before 0.18, in the published Stable Diffusion VAE
        for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
            key = key.replace(f".{old}.", f".{new}.")
    return key


def _is_old_attention(name: str, part: str, shape: tuple[int, ...]) -> bool:
    """Return whether a tensor is an attention projection as a 1x1 convolution, as in the oldest VAE files."""
    return part == "vae" and ".attentions." in name and len(shape) == 4 and shape[2:] == (1, 1)


def _plain(key: str) -> str:
    """Remove the prefix of published CLIP text models, which Transformers 5 no longer uses."""
    return key.removeprefix("text_model.")


def _named_for(module: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: weights[_plain(key)] for key in module.state_dict()}
