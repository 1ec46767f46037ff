"""Checkpoints that hold a whole pipeline in one safetensors file; diffusers converts them to a model folder once.

The file has weights only. Configs and tokenizers are those next to it, if it lies in a pipeline folder, else those of
the published model of its family. Classes are chosen here, and only known keys of a config are used.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from dgkit.diffusion.part_config import KNOWN_PARTS, TEXT_ENCODERS, read_config, used_keys
from dgkit.diffusion.weights import save_part
from dgkit.errors import ModelError, one_line
from dgkit.files import cache_folder, digest_file, output_error, temporary_path
from dgkit.locks import locked

_UNET = "model.diffusion_model.input_blocks."
# Beginning of the names of its text encoder, and the repository of the configs, by the name of a family.
FAMILIES = {
    "SDXL": ("conditioner.embedders.1.model.", "stabilityai/stable-diffusion-xl-base-1.0"),
    "Stable Diffusion 2": ("cond_stage_model.model.", "stabilityai/stable-diffusion-2-1"),
    "Stable Diffusion 1": ("cond_stage_model.transformer.", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
}
_TEXT_FILES = (".json", ".txt")


def converted(path: Path) -> Path:
    """Return the model folder of a checkpoint; it is made on first use and kept in the cache folder.

    Raises ModelError for a file of another kind, or if configs are missing; OutputError if the cache cannot be written.
    """
    if path.suffix != ".safetensors":
        raise ModelError(
            f"{path} is a file; expected a model folder or a checkpoint in one .safetensors file",
            "pass the folder that holds model_index.json",
        )
    family = _family(path)
    configs = _find_configs(path, family)
    total = hashlib.sha256(digest_file(path).encode())
    for part in _parts(family):
        total.update(json.dumps(used_keys(part, read_config(configs / part, part)), sort_keys=True).encode())
    folder = cache_folder() / "checkpoints"
    target = folder / f"{path.stem}-{total.hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, f".{target.name}.lock"):
            if not target.exists():
                _convert(path, family, configs, target)
    except OSError as error:
        raise output_error(target, error) from error
    return target


def _family(path: Path) -> str:
    """Return the family of a checkpoint by the names of its tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
    except (SafetensorError, OSError, MemoryError, ValueError, OverflowError) as error:
        raise ModelError(
            f"{path} is no checkpoint: {one_line(str(error))}", "download or copy the file again"
        ) from None
    if any(name.startswith(_UNET) for name in names):
        for family, (beginning, _) in FAMILIES.items():
            if any(name.startswith(beginning) for name in names):
                return family
    first = one_line(min(names, default="none"), 80)
    raise ModelError(
        f"{path} is no checkpoint of a whole pipeline of {', '.join(FAMILIES)} (its first tensor: {first})",
        "pass a model folder; --controlnet and --lora take other files",
    )


def _parts(family: str) -> tuple[str, ...]:
    return ("unet", "vae", *TEXT_ENCODERS[: 2 if family == "SDXL" else 1])


def _find_configs(path: Path, family: str) -> Path:
    """Return a folder with the configs and tokenizers of a family."""
    if (path.parent / "unet" / "config.json").is_file():
        return path.parent
    repository = FAMILIES[family][1]
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(repository, allow_patterns=[f"*{ending}" for ending in _TEXT_FILES]))
    except Exception as error:  # errors of the client, its HTTP library or the system
        reason = one_line(str(error), 100) or type(error).__name__
        raise ModelError(
            f"{path} has no configs next to it, and downloading those of {repository} failed ({reason})",
            f"with network: hf download {repository} --include '*.json' '*.txt'",
        ) from error


def _convert(path: Path, family: str, configs: Path, target: Path) -> None:
    temporary = temporary_path(target)
    try:
        with tempfile.TemporaryDirectory() as clean:
            for part in _parts(family):
                _write_json(Path(clean, part, "config.json"), _clean(part, read_config(configs / part, part)))
            try:
                _save_parts(path, family, Path(clean), temporary)
            except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as error:
                reason = one_line(str(error)) or type(error).__name__
                raise ModelError(f"{path} does not fit the configs in {configs}: {reason}") from error
        for name in ("scheduler", *(part.replace("text_encoder", "tokenizer") for part in _parts(family)[2:])):
            for source in sorted((configs / name).glob("*")):
                if source.suffix in _TEXT_FILES and source.is_file():
                    (temporary / name).mkdir(exist_ok=True)
                    shutil.copyfile(source, temporary / name / source.name)
        index = {"_class_name": f"StableDiffusion{'XL' * (family == 'SDXL')}Pipeline"}
        _write_json(temporary / "model_index.json", index)
        _write_json(temporary / "dgkit.json", {"name": path.stem})
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _clean(part: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the class of a part reads; ``model_type`` is how transformers names a text model."""
    kind = KNOWN_PARTS[part].class_names[0]
    named = {"model_type": "clip_text_model"} if part in TEXT_ENCODERS else {"_class_name": kind}
    return {**used_keys(part, config), **named}


def _save_parts(path: Path, family: str, configs: Path, out: Path) -> None:
    import diffusers
    import transformers
    from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
    from safetensors.torch import load_file

    weights = load_file(path)
    dtype = next(value for name, value in weights.items() if name.startswith(_UNET)).dtype
    for part in _parts(family):
        options = {"config": str(configs), "subfolder": part, "torch_dtype": dtype, "local_files_only": True}
        kind = KNOWN_PARTS[part].class_names[0]
        if part in TEXT_ENCODERS:
            module = create_diffusers_clip_model_from_ldm(getattr(transformers, kind), dict(weights), **options)
        else:
            module = getattr(diffusers, kind).from_single_file(str(path), **options)
        save_part(module, out / part)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
