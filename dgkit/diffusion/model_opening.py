"""Opening a model by its name, without torch and without its weights."""

from pathlib import Path

from dgkit.diffusion.hub import find_controlnet, find_model
from dgkit.diffusion.model_folder import RANDOM, ModelFolder, ModelSource
from dgkit.errors import UsageError


def open_model(model: str | Path | None = None, controlnet: str | Path | None = None) -> ModelSource:
    """Find a model, a folder, a hub id or ``random:NAME``, and check that its parts fit together.

    Raises ModelError for an invalid folder, UsageError for an unknown random model or a ControlNet with one.
    """
    if isinstance(model, str) and model.startswith(RANDOM):
        from dgkit.diffusion.random_model import RandomModel

        if controlnet is not None:
            raise UsageError(
                f"{model} has its own ControlNet and cannot be combined with {controlnet}", "leave out --controlnet"
            )
        return RandomModel(model.removeprefix(RANDOM))
    return ModelFolder(find_model(model), None if controlnet is None else find_controlnet(controlnet))
