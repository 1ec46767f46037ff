"""Loading a :class:`~dgkit.diffusion.pipeline.Pipeline` by the name of its model.

A model folder has the layout that diffusers writes for Stable Diffusion (``unet/ vae/ text_encoder/ tokenizer/
scheduler/``) plus ``controlnet/`` and, optionally, ``dgkit.json``. Any such folder works, from the embedded model with
a few million weights to Stable Diffusion 1.5 (``stable-diffusion-v1-5/stable-diffusion-v1-5``) with the published
ControlNet (``yurujaja/DGInStyle/ControlNet_UNet-S``).
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dgkit.diffusion.build_helper import helping
from dgkit.diffusion.components import model_networks
from dgkit.diffusion.fused_model import FusedModel
from dgkit.diffusion.hub import embedded_model
from dgkit.diffusion.model_folder import ModelFolder, ModelSource
from dgkit.diffusion.model_opening import open_model
from dgkit.diffusion.pipeline import Pipeline
from dgkit.engines.build_plan import Helper
from dgkit.engines.engine_recipe import EngineRecipe
from dgkit.engines.runner import find_device, known_dtype
from dgkit.engines.store import Policy
from dgkit.progress import Notify

__all__ = ["embedded_model", "load_pipeline", "model_networks", "open_model"]


def load_pipeline(
    model: str | Path | ModelSource | None = None,
    controlnet: str | Path | None = None,
    *,
    loras: Sequence[str] = (),
    engine: str = "torch",
    device: str = "cpu",
    dtype: str = "fp32",
    recipe: EngineRecipe | None = None,
    rebuild: Policy = "auto",
    notify: Notify | None = None,
) -> Pipeline:
    """Find, check and prepare a model; weights are loaded when the pipeline is entered.

    ``model``: None for the embedded one, a folder, a hub id, ``random:NAME`` (:mod:`dgkit.diffusion.random_model`), or
    what :func:`open_model` returned. ``controlnet``: None for the model's own ``controlnet/``, a folder, or a hub id
    with an optional sub-folder. ``loras``: LoRA as for :func:`open_model`. ``device`` ``auto`` is a GPU if there is
    one. ``dtype`` is fp32, bf16, fp16 or int8; :func:`~dgkit.engines.engine_recipe.recipe_dtype` maps it to the dtype
    of each network. ``recipe`` replaces ``engine``, ``device`` and ``dtype`` and may set them for each network.
    ``rebuild`` (``never``, ``auto``, ``always``) and ``notify`` apply to engines that are missing or stale when the
    pipeline is entered, see :meth:`dgkit.engines.store.EngineStore.obtain`.

    Raises ModelError for an invalid model folder, UsageError for an unknown engine, device, dtype or policy.
    """
    find_device("cpu" if device == "auto" else device), known_dtype(dtype)
    used = recipe or EngineRecipe.model_validate({"engine": engine, "device": device, "dtype": dtype})
    folder = open_model(model, controlnet, loras) if model is None or isinstance(model, str | Path) else model
    runners = used.runners(model_networks(folder), rebuild, notify)

    def identify() -> dict[str, Any]:
        facts: dict[str, Any] = {
            "name": folder.info.name,
            "digest": folder.digest(),
            "engine": used.engine,
            "dtype": used.dtype,
        }
        own = {name: choice.model_dump(exclude_none=True) for name, choice in used.networks.items()}
        if isinstance(folder, FusedModel):
            facts["loras"] = [lora.record() for lora in folder.loras]
        return {**facts, "networks": own} if own else facts

    def precise() -> Pipeline:
        device = str(runners["denoiser"].device)
        return load_pipeline(model, controlnet, loras=loras, engine="torch", device=device, dtype="fp32")

    return Pipeline(
        folder.info,
        runners,
        folder.tokenizer(),
        identify=identify,
        precise=None if all(runner.dtype_name == "fp32" for runner in runners.values()) else precise,
        release=folder.release,
        helper=build_helper(folder, used),
    )


def build_helper(model: ModelSource, recipe: EngineRecipe) -> Helper | None:
    """Return what builds engines of ``model`` in a second process; None for a model that is made in memory."""
    base, loras = (model.base, model.loras) if isinstance(model, FusedModel) else (model, ())
    if not isinstance(base, ModelFolder):
        return None
    return partial(helping, base.root, base.paths["controlnet"], recipe, loras=loras)
