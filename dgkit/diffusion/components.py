"""The five networks of a model, built from its parts: UNet, ControlNet, VAE and text encoders."""

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from dgkit.diffusion.calibration import denoiser_calibration
from dgkit.diffusion.model_folder import ModelSource
from dgkit.diffusion.part_config import TEXT_ENCODERS
from dgkit.engines.modules import Condition, Denoiser, TextEncoder, TextEncoders, VaeDecoder, VaeEncoder
from dgkit.engines.runner import Network
from dgkit.engines.spec import NETWORKS, SDXL_NETWORKS

# Model parts that each network consists of.
_PARTS = {
    "text_encoder": ("text_encoder",),
    "condition": ("controlnet",),
    "denoiser": ("unet", "controlnet"),
    "vae_encoder": ("vae",),
    "vae_decoder": ("vae",),
}
_MODULES: dict[str, Callable[..., nn.Module]] = {
    "text_encoder": TextEncoder,
    "condition": Condition,
    "denoiser": Denoiser,
    "vae_encoder": VaeEncoder,
    "vae_decoder": VaeDecoder,
}


def model_networks(model: ModelSource) -> dict[str, Network]:
    """Return the five networks of a model by name, each loadable on its own; the denoiser has a calibration."""
    two_encoders = bool(model.info.pooled_width)
    specs = SDXL_NETWORKS if two_encoders else NETWORKS

    def network(name: str) -> Network:
        joint = two_encoders and name == "text_encoder"
        parts = TEXT_ENCODERS if joint else _PARTS[name]
        make = TextEncoders if joint else _MODULES[name]
        return Network(
            spec=specs[name],
            load=lambda: make(*(model.part(part) for part in parts)),
            digest=lambda: model.digest(*parts),
            sizes=model.info.symbol_sizes(),
            model=model.command_words(),
            fp16=model.info.vae_fp16 or not name.startswith("vae_"),
            outline=lambda: make(*(model.outline(part) for part in parts)),
        )

    found = {name: network(name) for name in _PARTS}
    found["denoiser"] = replace(found["denoiser"], calibration=denoiser_calibration(model, found))
    return found
