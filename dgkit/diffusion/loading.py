"""From the name of a model to a :class:`~dgkit.diffusion.pipeline.Pipeline`.

A model folder has the layout that diffusers writes for Stable Diffusion (``unet/ vae/ text_encoder/ tokenizer/
scheduler/``) plus ``controlnet/`` and, optionally, ``dgkit.json``. Any such folder works, from the embedded model of a
few million weights to Stable Diffusion 1.5 (``stable-diffusion-v1-5/stable-diffusion-v1-5``) with the published
ControlNet (``yurujaja/DGInStyle/ControlNet_UNet-S``).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from dgkit.diffusion.folder import ModelFolder
from dgkit.diffusion.hub import embedded_model, find_controlnet, find_model
from dgkit.diffusion.pipeline import Pipeline
from dgkit.engines.base import Network, Runner, find_device, find_dtype, runner_class
from dgkit.engines.networks import Condition, Denoiser, TextEncoder, VaeDecoder, VaeEncoder
from dgkit.engines.spec import NETWORKS
from dgkit.engines.store import Notify, Policy

__all__ = ["embedded_model", "load_pipeline", "model_networks"]

# Parts of the folder behind each network.
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
_ALWAYS_FP32 = ("text_encoder", "vae_encoder")  # once an image or less; the published bridge encodes in fp32


def load_pipeline(
    model: str | Path | None = None,
    controlnet: str | Path | None = None,
    *,
    engine: str = "torch",
    device: str = "cpu",
    dtype: str = "fp32",
    rebuild: Policy = "auto",
    notify: Notify | None = None,
) -> Pipeline:
    """Find, check and prepare a model; weights reach the device when the pipeline is entered.

    ``model``: None for the embedded one, a folder, or a hub id. ``controlnet``: None for the model's own
    ``controlnet/``, a folder, or a hub id with an optional sub-folder. ``dtype`` (fp32, bf16, fp16) is that of the
    denoiser, the condition network and the VAE decoder; text encoder and VAE encoder stay fp32. ``rebuild`` (``never``,
    ``auto``, ``always``) says what happens where an engine is missing or stale when the pipeline is entered, and
    ``notify`` is told of it, see :meth:`dgkit.engines.store.EngineStore.obtain`.

    Raises ModelError for anything wrong with the folder, UsageError for an unknown engine, device, dtype or policy.
    """
    find_device(device), find_dtype(dtype)
    runner_type = runner_class(engine)
    folder = ModelFolder(find_model(model), None if controlnet is None else find_controlnet(controlnet))
    runners: dict[str, Runner] = {
        name: runner_type(network, device, "fp32" if name in _ALWAYS_FP32 else dtype, rebuild=rebuild, notify=notify)
        for name, network in model_networks(folder).items()
    }

    def identify() -> dict[str, Any]:
        return {"name": folder.info.name, "digest": folder.digest(), "engine": engine, "dtype": dtype}

    def precise() -> Pipeline:
        return load_pipeline(model, controlnet, engine="torch", device=device, dtype="fp32")

    return Pipeline(
        folder.info,
        runners,
        folder.tokenizer(),
        identify=identify,
        precise=None if dtype == "fp32" else precise,
        release=folder.release,
    )


def model_networks(folder: ModelFolder) -> dict[str, Network]:
    """The five networks of a folder, each loadable on its own."""

    def network(name: str) -> Network:
        parts = _PARTS[name]
        return Network(
            spec=NETWORKS[name],
            load=lambda: _MODULES[name](*(folder.part(part) for part in parts)),
            digest=lambda: folder.digest(*parts),
            sizes=folder.info.symbol_sizes(),
            model=folder.command_words(),
        )

    return {name: network(name) for name in _PARTS}
