"""A second process that builds engines of a model, ``python -m dgkit.diffusion.build_helper``; its input is a request.

The export of a network keeps one core busy. The engine store lets one process build an engine and the others wait for
it, so this process needs to report nothing: what it could not build, the main process builds, with all messages.
"""

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dgkit.diffusion.lora_fusion import LoraFile
from dgkit.engines.engine_recipe import EngineRecipe
from dgkit.errors import DgkitError
from dgkit.processes import helper_process
from dgkit.resources import available_memory, usable_cores

MODULE = "dgkit.diffusion.build_helper"
SMALLEST = 4 << 20  # bytes of weights below which the networks are built before the process has started
MEMORY_PER_BYTE = 12  # bytes that an export needs for each byte of the model's weights
MEMORY = 2 << 30  # bytes that the process needs for its libraries and the smallest model


@dataclass(frozen=True)
class BuildRequest:
    """The ``networks`` of a model in a folder whose engines are built in this order, and the recipe as plain values."""

    model: str
    controlnet: str | None
    recipe: dict[str, Any]
    networks: tuple[str, ...]
    loras: tuple[tuple[str, float], ...] = ()
    """File and scale of each LoRA."""


@contextlib.contextmanager
def helping(
    root: Path, controlnet: Path, recipe: EngineRecipe, networks: Sequence[str], loras: Sequence[LoraFile] = ()
) -> Iterator[bool]:
    """Build engines in a second process while the block runs, if cores and memory allow; yield whether they do."""
    weights = sum(path.stat().st_size for folder in (root, controlnet) for path in folder.rglob("*.safetensors"))
    room = available_memory() > MEMORY + MEMORY_PER_BYTE * weights
    if weights < SMALLEST or len(usable_cores()) < 2 or not room:
        yield False
        return
    files = tuple((str(lora.path), lora.scale) for lora in loras)
    request = BuildRequest(str(root), str(controlnet), recipe.model_dump(mode="json"), tuple(networks), files)
    with helper_process(MODULE, asdict(request)):
        yield True


def serve(request: BuildRequest) -> None:
    """Build the engines of a request; leave an engine that cannot be built to the main process."""
    from dgkit.diffusion.components import model_networks
    from dgkit.diffusion.fused_model import FusedModel
    from dgkit.diffusion.model_folder import ModelFolder

    folder = ModelFolder(Path(request.model), None if request.controlnet is None else Path(request.controlnet))
    loras = [LoraFile(path, Path(path), scale) for path, scale in request.loras]
    model = FusedModel(folder, loras) if loras else folder
    found = model_networks(model)
    recipe = EngineRecipe.model_validate(request.recipe)
    for runner in recipe.runners({name: found[name] for name in request.networks}).values():
        with contextlib.suppress(DgkitError):
            runner.prepare()
        model.release()


if __name__ == "__main__":
    serve(BuildRequest(**json.load(sys.stdin)))
