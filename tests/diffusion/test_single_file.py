"""Checkpoints in one file: the names of the original implementation become a model folder with the same weights."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dgkit.diffusion.hub import find_model
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.diffusion.style_swap import swap
from dgkit.errors import ModelError
from tests.models import make_micro_model

LEVELS, LAYERS = 2, 1  # of the UNet of the micro model
# Diffusers' names of the inside of a block, and the original ones.
UNET_BLOCK = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
              "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}  # fmt: skip
UNET_ENDS = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
             "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
             "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}  # fmt: skip
VAE_BLOCK = {"conv_shortcut": "nin_shortcut", "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v",
             "to_out.0": "proj_out"}  # fmt: skip
OPEN_CLIP = {"embeddings.position_embedding.weight": "positional_embedding",
             "embeddings.token_embedding": "token_embedding", "final_layer_norm": "ln_final",
             "encoder.layers": "transformer.resblocks", "layer_norm": "ln_", "fc1": "c_fc", "fc2": "c_proj",
             "self_attn": "attn"}  # fmt: skip


def unet_name(key: str, upsampler: int) -> str:
    for name, old in UNET_ENDS.items():
        key = re.sub(rf"^{name}\.", f"{old}.", key)
    side, level, kind, number, rest = re.match(  # type: ignore[union-attr]
        r"(down|mid|up)?(?:_blocks?)?\.?(\d)?\.?(resnets|attentions|downsamplers|upsamplers)?\.?(\d)?(.*)", key
    ).groups()
    if side is None:
        return key
    if kind == "resnets":
        for name, old in UNET_BLOCK.items():
            rest = rest.replace(f".{name}.", f".{old}.")
    place = int(number)
    if side == "mid":
        return f"middle_block.{1 if kind == 'attentions' else 2 * place}{rest}"
    first = int(level) * (LAYERS + 1)
    if side == "down":
        if kind == "downsamplers":
            return f"input_blocks.{first + LAYERS + 1}.0.op{rest.removeprefix('.conv')}"
        return f"input_blocks.{first + 1 + place}.{int(kind == 'attentions')}{rest}"
    if kind == "upsamplers":
        return f"output_blocks.{first + LAYERS}.{1 if int(level) == 0 else 2}{rest}"
    return f"output_blocks.{first + place}.{int(kind == 'attentions')}{rest}"


def vae_name(key: str) -> str:
    for name, old in VAE_BLOCK.items():
        key = key.replace(f".{name}.", f".{old}.")
    key = key.replace("conv_norm_out", "norm_out").replace("mid_block.attentions.0", "mid.attn_1")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", key)
    key = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets\.", lambda found: f"up.{3 - int(found[1])}.block.", key)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda found: f"up.{3 - int(found[1])}.upsample", key)


def open_clip(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of a text encoder under the names of OpenCLIP, which joins queries, keys and values."""
    found: dict[str, torch.Tensor] = {}
    for key, value in weights.items():
        name = key.removeprefix("text_model.")
        for new, old in OPEN_CLIP.items():
            name = name.replace(new, old)
        if "q_proj" in name:
            parts = [weights[key.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            found[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
        elif name == "text_projection.weight":
            found["text_projection"] = value.T.contiguous()
        elif not re.search("[kv]_proj", name):
            found[name] = value
    return found


def original(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a model folder under the names of the original implementation of its family."""
    weights = {}
    unet = load_file(folder / "unet/diffusion_pytorch_model.safetensors")
    upsampler = 1 + any(key.startswith("up_blocks.0.attentions") for key in unet)
    for key, value in unet.items():
        weights[f"model.diffusion_model.{unet_name(key, upsampler)}"] = value
    for key, value in load_file(folder / "vae/diffusion_pytorch_model.safetensors").items():
        is_projection = ".attentions." in key and key.endswith("weight") and value.ndim == 2
        name = f"first_stage_model.{vae_name(key)}"
        weights[name] = value[:, :, None, None].contiguous() if is_projection else value
    return weights | original_text(folder)


def original_text(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of the text encoders under their original names."""
    first = load_file(folder / "text_encoder/model.safetensors")
    if folder.name == "sd21":
        return {f"cond_stage_model.model.{key}": value for key, value in open_clip(first).items()}
    second = folder / "text_encoder_2/model.safetensors"
    prefix = "conditioner.embedders.0" if second.exists() else "cond_stage_model"
    found = {f"{prefix}.transformer.text_model.{key.removeprefix('text_model.')}": v for key, v in first.items()}
    if second.exists():
        found |= {f"conditioner.embedders.1.model.{key}": v for key, v in open_clip(load_file(second)).items()}
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_micro_model(tmp_path_factory.mktemp("single") / "prior", vae_attention=True)


def test_a_checkpoint_next_to_configs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "cache"))
    place = Path(shutil.copytree(folder, tmp_path / "my pipeline"))
    path = place / "street-v1.safetensors"
    save_file(original(folder), path)
    for weights in place.rglob("*/*.safetensors"):
        weights.unlink()
    found = find_model(path)
    assert find_model(str(path)) == found and len(list((tmp_path / "cache" / "checkpoints").iterdir())) == 1
    swap(path, folder / "controlnet", tmp_path / "out")
    for model in (ModelFolder(found, folder / "controlnet"), ModelFolder(tmp_path / "out")):
        assert model.info.name == "street-v1"
        for part in ("unet", "vae", "text_encoder"):
            expected = ModelFolder(folder).part(part).state_dict()
            weights = model.part(part).state_dict()
            assert all(torch.equal(weights[name], value) for name, value in expected.items())
    change = load_file(path)
    change["model.diffusion_model.out.2.bias"] += 1
    save_file(change, path)
    assert find_model(path) != found


def test_checkpoints_of_the_other_families(family_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "cache"))
    place = Path(shutil.copytree(family_model, tmp_path / "pipeline"))
    path = place / "street.safetensors"
    save_file(original(family_model), path)
    for weights in place.rglob("*/*.safetensors"):
        weights.unlink()
    found, expected = ModelFolder(find_model(path), family_model / "controlnet"), ModelFolder(family_model)
    assert replace(found.info, name="", defaults=expected.info.defaults) == replace(expected.info, name="")
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if (family_model / part).is_dir():
            weights, own = found.part(part).state_dict(), expected.part(part).state_dict()
            assert weights.keys() == own.keys() and all(torch.equal(weights[name], own[name]) for name in own)
    (place / "unet" / "config.json").unlink()
    repository = "stable-diffusion-2-1" if family_model.name == "sd21" else "stable-diffusion-xl-base-1.0"
    with pytest.raises(ModelError, match="has no configs next to it, and downloading those of") as caught:
        find_model(path)
    assert f"hf download stabilityai/{repository} --include '*.json' '*.txt'" in caught.value.hint


def test_files_that_are_no_checkpoint(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "cache"))
    weights, path = original(folder), tmp_path / "file.safetensors"

    def refuse(words: str) -> str:
        with pytest.raises(ModelError, match=words) as caught:
            find_model(path)
        assert "\n" not in caught.value.message + caught.value.hint
        return caught.value.hint

    save_file(weights, path)
    hint = refuse("no configs next to it, and downloading those of stable-diffusion-v1-5/stable-diffusion-v1-5 failed")
    assert hint.startswith("with network: hf download stable-diffusion-v1-5/stable-diffusion-v1-5 --include")
    for keep in ("model.diffusion_model.", "first_stage_model.", "cond_stage_model."):
        save_file({name: value for name, value in weights.items() if name.startswith(keep)}, path)
        refuse("no checkpoint of a whole pipeline of SDXL, Stable Diffusion 2, Stable Diffusion 1")
    save_file({"lora_unet_down.alpha": torch.ones(1)}, path)
    assert "--lora" in refuse(r"its first tensor: lora_unet_down.alpha")
    path.write_bytes(b"not safetensors")
    refuse("is no checkpoint")
    path = tmp_path / "old.ckpt"
    path.write_bytes(b"")
    refuse("is a file; expected a model folder or a checkpoint in one .safetensors file")
    shutil.copytree(folder, tmp_path / "place")
    path = tmp_path / "place" / "file.safetensors"
    del weights["model.diffusion_model.out.2.bias"]
    save_file(weights, path)
    refuse("does not fit the configs in")
    assert not (tmp_path / "cache" / "checkpoints").exists() or not [
        path for path in (tmp_path / "cache" / "checkpoints").iterdir() if path.is_dir()
    ]
