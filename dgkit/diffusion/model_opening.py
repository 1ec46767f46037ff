"""Opening a model by its name, without torch and without its weights."""

from collections.abc import Sequence
from pathlib import Path

from dgkit.diffusion.hub import find_controlnet, find_model
from dgkit.diffusion.model_folder import RANDOM, ModelFolder, ModelSource
from dgkit.errors import UsageError


def open_model(
    model: str | Path | None = None, controlnet: str | Path | None = None, loras: Sequence[str] = ()
) -> ModelSource:
    """Find a model, a folder, a hub id or ``random:NAME``, and check that its parts fit together.

    ``loras``: LoRA to fuse into UNet and text encoders, each a file or hub id with an optional scale,
    ``FILE_OR_HUB[:scale]``. Raises ModelError for an invalid folder or a LoRA that does not fit, UsageError for an
    unknown random model, a ControlNet with one, or an invalid scale.
    """
    base = _open_base(model, controlnet)
    if not loras:
        return base
    from dgkit.diffusion.fused_model import FusedModel
    from dgkit.diffusion.lora_fusion import find_loras

    return FusedModel(base, find_loras(loras))


def _open_base(model: str | Path | None, controlnet: str | Path | None) -> ModelSource:
    if isinstance(model, str) and model.startswith(RANDOM):
        from dgkit.diffusion.random_model import RandomModel

        if controlnet is not None:
            raise UsageError(
                f"{model} has its own ControlNet and cannot be combined with {controlnet}", "leave out --controlnet"
            )
        return RandomModel(model.removeprefix(RANDOM))
    return ModelFolder(find_model(model), None if controlnet is None else find_controlnet(controlnet))
