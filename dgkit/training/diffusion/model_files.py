"""Files of diffusers model folders: JSON, networks, and folders that are complete or absent."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

from dgkit.diffusion.weights import save_part
from dgkit.files import temporary_path
from dgkit.training.loop.integrity import check_finite

PIPELINE_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.30.0",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def link(source: Path, target: Path) -> None:
    """Make ``target`` a hard link to ``source``, or a copy if the file system cannot link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an indented JSON file; missing parent folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(value), indent=2) + "\n", encoding="utf-8")


def save_network(network: AutoencoderKL | UNet2DConditionModel | ControlNetModel, folder: Path) -> None:
    """Call ``save_pretrained`` and remove the path the network was loaded from.

    Raises ModelError, before anything is written, if a weight is not finite.
    """
    save_finite(network, folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    write_json(path, config)


def save_finite(network: AutoencoderKL | UNet2DConditionModel | ControlNetModel, folder: Path) -> None:
    """Call ``save_pretrained``. Raises ModelError, before anything is written, if a weight is not finite."""
    hint = "train again in another folder with a lower lr or precision=bf16"
    check_finite(network.state_dict(), f"the trained {type(network).__name__}", hint)
    save_part(network, folder)


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Replace ``folder`` by what ``write(temporary)`` writes; a reader finds it complete or absent."""
    temporary = temporary_path(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        write(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def move_contents(source: Path, target: Path, last: str) -> list[Path]:
    """Move files and folders from ``source`` into ``target``, the file named ``last`` at the end; remove ``source``.

    ``last`` is removed from ``target`` first, so that it is never found next to a mixture of old and new files. Returns
    the paths in ``target``.
    """
    (target / last).unlink(missing_ok=True)
    moved = []
    for path in sorted(source.iterdir(), key=lambda path: path.name == last):
        found = target / path.name
        if path.is_dir():
            shutil.rmtree(found, ignore_errors=True)
        else:
            # A rename does nothing if both names are hard links to one file, so the old name goes first.
            found.unlink(missing_ok=True)
        path.replace(found)
        moved.append(found)
    source.rmdir()
    return moved
