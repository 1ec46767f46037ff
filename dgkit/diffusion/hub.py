"""Locating a model: a folder, or a Hugging Face hub id that is downloaded into the hub's cache."""

import re
from pathlib import Path

from dgkit.errors import ModelError, one_line, shown

EMBEDDED = Path(__file__).resolve().parent.parent / "models" / "city"
PRIOR_FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
)
TOKENIZER_PAIR = ("tokenizer/vocab.json", "tokenizer/merges.txt")  # not needed with tokenizer/tokenizer.json
CONTROLNET_FILES = ("config.json", "diffusion_pytorch_model.safetensors")
OPTIONAL_FILES = (
    "dgkit.json",
    "tokenizer/tokenizer.json",
    "tokenizer/special_tokens_map.json",
    "tokenizer/added_tokens.json",
    "controlnet/*",
)
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(/[\w.-]+)*$")


def embedded_model() -> Path:
    """Return the folder of the model inside the package. Raises ModelError if this installation lacks it."""
    if not (EMBEDDED / "model_index.json").is_file():
        raise ModelError(
            f"the embedded model is missing from this installation ({EMBEDDED})",
            "pass --model FOLDER, or install a dgkit wheel, which contains the model",
        )
    return EMBEDDED


def find_model(model: str | Path | None) -> Path:
    """Return the folder of a model: ``None`` is the embedded model, else a folder or a hub id ``owner/name``."""
    return embedded_model() if model is None else _find(model, PRIOR_FILES, OPTIONAL_FILES)


def find_controlnet(controlnet: str | Path) -> Path:
    """Return the folder of a ControlNet: a folder, or a hub id ``owner/name[/subfolder]``.

    For a model folder that contains ``controlnet/``, that sub-folder is returned.
    """
    folder = _find(controlnet, CONTROLNET_FILES, ())
    if not (folder / "config.json").is_file() and (folder / "controlnet" / "config.json").is_file():
        return folder / "controlnet"
    return folder


def _find(source: str | Path, files: tuple[str, ...], optional: tuple[str, ...]) -> Path:
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            return path
        exists = path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a NUL character, an unknown ~user
        reason = getattr(error, "strerror", None) or one_line(str(error), 100)
        raise ModelError(f"the model {shown(str(source))} cannot be found: {reason}", "check the path") from error
    if exists:
        raise ModelError(f"{path} is a file; expected a model folder", "pass the folder that holds model_index.json")
    if isinstance(source, str) and _HUB_ID.match(source):
        return _download(source, files, optional)
    raise ModelError(f"model folder {path} does not exist", "pass a folder or a hub id such as owner/name")


def _download(source: str, files: tuple[str, ...], optional: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    owner, name, *rest = source.split("/")
    repository, prefix = f"{owner}/{name}", "".join(f"{part}/" for part in rest)
    wanted = [prefix + file for file in files]
    hint = f"with network: hf download {repository} {' '.join(wanted)}"
    try:
        root = snapshot_download(repository, allow_patterns=wanted + [prefix + file for file in optional])
    except Exception as error:  # errors of the client, its HTTP library or the system
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{source} is not a folder, and downloading it from the hub failed ({reason}); needed: {', '.join(wanted)}",
            hint,
        ) from error
    folder = Path(root, *rest)
    whole = (folder / "tokenizer" / "tokenizer.json").is_file()
    missing = [file for file in files if not ((folder / file).is_file() or (whole and file in TOKENIZER_PAIR))]
    if missing:
        raise ModelError(f"{source} lacks files on the hub or in its cached copy: {', '.join(missing)}", hint)
    return folder
