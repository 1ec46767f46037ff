"""Whether the parts of a model fit together, and the sizes that their configs state."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dgkit.diffusion.part_config import TEXT_ENCODERS
from dgkit.engines.spec import TIME_VALUES
from dgkit.errors import ModelError, shown
from dgkit.taxonomies import CITYSCAPES19, Taxonomy


def is_sdxl(unet: Mapping[str, Any]) -> bool:
    """Return whether a UNet or ControlNet takes the further inputs of SDXL, by its config."""
    return unet.get("addition_embed_type") == "text_time"


def family(unet: Mapping[str, Any]) -> str:
    """Return the name of the family that a UNet or ControlNet belongs to, by its config."""
    if is_sdxl(unet):
        return "SDXL"
    names = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2"}
    return names.get(unet.get("cross_attention_dim", 1280), "a model of another size")


def vae_factor(vae: dict[str, Any]) -> int:
    """Return the pixels per latent cell and side, by the config of the VAE."""
    return int(2 ** (len(vae.get("block_out_channels") or (64,)) - 1))


def text_width(configs: Mapping[str, Mapping[str, Any]]) -> int:
    """Return the width of the text embedding: the sum over all text encoders."""
    return sum(encoder_width(configs[name]) for name in TEXT_ENCODERS if name in configs)


def encoder_width(text: Mapping[str, Any]) -> int:
    """Return the width of one text encoder, by its config."""
    return int(text.get("hidden_size", 512))


def pooled_width(configs: Mapping[str, Mapping[str, Any]]) -> int:
    """Return the width of the pooled text embedding; 0 without a second text encoder."""
    return int(configs["text_encoder_2"].get("projection_dim", 512)) if "text_encoder_2" in configs else 0


def check_fit(configs: dict[str, dict[str, Any]], paths: dict[str, Path], taxonomy: Taxonomy = CITYSCAPES19) -> None:
    """Raise ModelError unless ControlNet, UNet, VAE and text encoders fit together and the channels of ``taxonomy``."""
    unet, control, vae = (configs[name] for name in ("unet", "controlnet", "vae"))
    check_controlnet(unet, control, paths, taxonomy)
    latents, cells = vae.get("latent_channels", 4), unet.get("in_channels", 4)
    if latents != cells:
        raise ModelError(
            f"the VAE {paths['vae']} has {latents} latent channels, but the UNet {paths['unet']} expects {cells}"
        )
    _check_text(configs, paths)
    strides = 2 ** (len(control.get("conditioning_embedding_out_channels") or (16, 32, 96, 256)) - 1)
    if strides != vae_factor(vae):
        where, factor = paths["controlnet"], vae_factor(vae)
        raise ModelError(
            f"the ControlNet {where} downscales labels {strides} times, but the VAE downscales images {factor} times"
        )


def check_controlnet(unet: dict[str, Any], control: dict[str, Any], paths: dict[str, Path], taxonomy: Taxonomy) -> None:
    """Raise ModelError unless the configs of a ControlNet and a UNet fit together and the channels of ``taxonomy``."""
    where = paths["controlnet"]
    channels = control.get("conditioning_channels", 3)
    if channels != taxonomy.channels:
        raise ModelError(
            f"the ControlNet {where} has {channels} condition channels; expected {taxonomy.channels}: the "
            f"{taxonomy.size} classes of {taxonomy.name} and ignore",
            f"for a ControlNet of other classes: dgkit swap PRIOR {where} MODEL --taxonomy FILE.yaml",
        )
    shared = ("in_channels", "block_out_channels", "down_block_types", "layers_per_block", "cross_attention_dim")
    for key in (*shared, "addition_embed_type"):
        if control.get(key) != unet.get(key):
            if (other := family(control)) != family(unet):
                raise ModelError(
                    f"the ControlNet {where} does not fit the UNet: it is for {other}, the UNet for {family(unet)}",
                    "use a ControlNet trained on a UNet of this architecture",
                )
            raise ModelError(
                f"the ControlNet {where} does not fit the UNet: its {key} is {shown(control.get(key))}, "
                f"not {shown(unet.get(key))}",
                "use a ControlNet trained on a UNet of this architecture",
            )
    if control.get("controlnet_conditioning_channel_order", "rgb") != "rgb":
        raise ModelError(f"the ControlNet {where} reverses the order of its condition channels; expected 'rgb'")
    kind = unet.get("addition_embed_type")
    if kind not in (None, "text", "text_time") or unet.get("class_embed_type") is not None:
        raise ModelError(
            f"the UNet {paths['unet']} needs more inputs than text ({kind or 'class labels'}), which is not supported"
        )


def _check_text(configs: dict[str, dict[str, Any]], paths: dict[str, Path]) -> None:
    unet, width = configs["unet"], text_width(configs)
    cross = unet.get("encoder_hid_dim") or unet.get("cross_attention_dim")
    if width != cross:
        where = " with ".join(str(paths[name]) for name in TEXT_ENCODERS if name in configs)
        raise ModelError(f"the text encoder {where} has width {width}, but the UNet's attention expects {cross}")
    if "text_encoder_2" in configs:
        pooled, sizes = pooled_width(configs), unet.get("addition_time_embed_dim")
        found = pooled + TIME_VALUES * sizes if isinstance(sizes, int) else sizes
        expected = unet.get("projection_class_embeddings_input_dim")
        if found != expected:
            raise ModelError(
                f"the text encoder {paths['text_encoder_2']} gives {pooled} pooled values; with {TIME_VALUES} sizes of "
                f"{shown(sizes)} values that is {shown(found)}, but the UNet expects {shown(expected)}",
                "use the text encoders of the SDXL base model; its refiner is not supported",
            )
