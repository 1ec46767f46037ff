"""Tiny complete model folders with random weights, for tests.

``make_micro_model(folder)`` writes the layout of a Stable Diffusion folder plus ``controlnet/`` in well under 1 MB: the
same classes as a real model, only narrower. One denoiser call takes a few milliseconds on one CPU core.
"""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

GOLDEN_TOKENIZER = Path(__file__).parent / "golden" / "tiny-sd" / "tokenizer"
VOCAB_SIZE = 210  # of that tokenizer
END_OF_TEXT = 209


def make_micro_model(
    folder: str | Path,
    *,
    vae_factor: int = 8,
    latent_channels: int = 4,
    sample_size: int = 8,
    prediction_type: str = "epsilon",
    timestep_spacing: str = "leading",
    zero_snr: bool = False,
    text_time: bool = False,
    text_length: int = 77,
    seed: int = 0,
    defaults: dict[str, Any] | None = None,
    with_controlnet: bool = True,
    vae_attention: bool = False,
    taxonomy: str = "cityscapes19",
) -> Path:
    """Write a model folder and return it.

    ``vae_factor`` is a power of two; ``sample_size`` is the UNet's tile in latent cells, so the model's own image size
    is ``vae_factor * sample_size`` pixels. ``text_time`` adds the pooled text to the time embedding
    (``addition_embed_type="text"``). ``vae_attention`` gives the VAE the middle attention of Stable Diffusion's.
    ``defaults`` becomes ``dgkit.json``; ``taxonomy`` gives the condition channels. The same arguments give the same
    weights.
    """
    import torch
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

    from dgkit.diffusion.model_folder import condition_text
    from dgkit.taxonomies import find_taxonomy
    from dgkit.training.diffusion.model_files import PIPELINE_INDEX

    folder, classes = Path(folder), find_taxonomy(taxonomy)
    width = 64 if text_time else 16
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(**_unet_config(latent_channels, sample_size, width, text_time))
        unet.save_pretrained(folder / "unet")
        if with_controlnet:
            levels = vae_factor.bit_length() - 1
            controlnet = ControlNetModel.from_unet(
                unet, conditioning_channels=classes.channels, conditioning_embedding_out_channels=(4,) * levels + (8,)
            )
            _wake_zero_layers(controlnet)
            controlnet.save_pretrained(folder / "controlnet")
            if (text := condition_text(classes)) is not None:
                (folder / "controlnet" / "dgkit.json").write_text(text, encoding="utf-8")
        AutoencoderKL(**_vae_config(vae_factor, latent_channels, vae_attention)).save_pretrained(folder / "vae")
        _save_text(folder, width, text_length)
    _save_scheduler(folder, prediction_type, timestep_spacing, zero_snr)
    _write_json(folder / "model_index.json", PIPELINE_INDEX)
    if defaults is not None:
        _write_json(folder / "dgkit.json", defaults)
    return folder


def make_family_model(folder: str | Path, family: str, seed: int = 0) -> Path:
    """Write a tiny model of the architecture of ``sd21`` or ``sdxl``, with its ControlNet."""
    from dgkit.diffusion.random_model import RandomModel

    folder, model = Path(folder), RandomModel(f"tiny-{family}", seed)
    for part in model.configs:
        model.part(part).save_pretrained(folder / part)
    length, index = model.info.text_length, dict(_INDICES[family])
    _save_tokenizer(folder / "tokenizer", length)
    if "tokenizer_2" in index:
        _save_tokenizer(folder / "tokenizer_2", length, pad_token=",")  # the published one pads with "!"
    _write_json(folder / "scheduler" / "scheduler_config.json", model.info.scheduler)
    index["scheduler"] = ["diffusers", model.info.scheduler["_class_name"]]
    _write_json(folder / "model_index.json", index)
    return folder


_SD_INDEX = {
    "_class_name": "StableDiffusionControlNetPipeline",
    "controlnet": ["diffusers", "ControlNetModel"],
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
_INDICES = {
    "sd21": _SD_INDEX | {"requires_safety_checker": False, "safety_checker": [None, None]},
    "sdxl": _SD_INDEX
    | {
        "_class_name": "StableDiffusionXLControlNetPipeline",
        "force_zeros_for_empty_prompt": True,
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    },
}


def _unet_config(latent_channels: int, sample_size: int, width: int, text_time: bool) -> dict[str, Any]:
    from dgkit.diffusion.random_model import TINY_UNET

    return {
        **TINY_UNET,
        "sample_size": sample_size,
        "in_channels": latent_channels,
        "out_channels": latent_channels,
        "cross_attention_dim": width,
        "addition_embed_type": "text" if text_time else None,
    }


def _vae_config(factor: int, latent_channels: int, attention: bool) -> dict[str, Any]:
    levels = factor.bit_length()
    return {
        "block_out_channels": (4,) * levels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "latent_channels": latent_channels,
        "norm_num_groups": 2,
        "layers_per_block": 1,
        "mid_block_add_attention": attention,
        "scaling_factor": 0.5,
        "sample_size": 64,
    }


def _wake_zero_layers(controlnet: Any) -> None:
    """A fresh ControlNet ends in zero convolutions and dampens labels, so that they would have no effect at all."""
    import torch

    embedding = controlnet.controlnet_cond_embedding
    for layer in (embedding.conv_in, *embedding.blocks, embedding.conv_out):
        torch.nn.init.normal_(layer.weight, std=1.7 * layer.weight[0].numel() ** -0.5)
        torch.nn.init.zeros_(layer.bias)
    for layer in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
        torch.nn.init.normal_(layer.weight, std=0.3)


def _save_text(folder: Path, width: int, text_length: int) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=text_length,
        bos_token_id=END_OF_TEXT - 1,
        eos_token_id=END_OF_TEXT,
        pad_token_id=END_OF_TEXT,
    )
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    _save_tokenizer(folder / "tokenizer", text_length)


def _save_tokenizer(folder: Path, text_length: int, **changed: str) -> None:
    shutil.copytree(GOLDEN_TOKENIZER, folder)
    folder.chmod(0o755)
    settings = json.loads((GOLDEN_TOKENIZER / "tokenizer_config.json").read_text())
    _write_json(folder / "tokenizer_config.json", settings | {"model_max_length": text_length, **changed})


def _save_scheduler(folder: Path, prediction_type: str, timestep_spacing: str, zero_snr: bool) -> None:
    config = json.loads((GOLDEN_TOKENIZER.parent / "scheduler" / "scheduler_config.json").read_text())
    config |= {
        "prediction_type": prediction_type,
        "timestep_spacing": timestep_spacing,
        "rescale_betas_zero_snr": zero_snr,
    }
    _write_json(folder / "scheduler" / "scheduler_config.json", config)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def random_networks(name: str, seed: int = 0) -> dict[str, Any]:
    """Return the networks of a model with random weights by name; each ``load()`` makes modules of its own."""
    from dataclasses import replace

    from dgkit.diffusion.components import model_networks
    from dgkit.diffusion.random_model import RandomModel

    def load(network: str) -> Any:
        return model_networks(RandomModel(name, seed))[network].load()

    networks = model_networks(RandomModel(name, seed))
    return {key: replace(network, load=partial(load, key)) for key, network in networks.items()}
