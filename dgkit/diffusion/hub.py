"""Where a model lies: a folder, or a Hugging Face hub id fetched into the hub's own cache."""

import re
from pathlib import Path

from dgkit.errors import ModelError

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
CONTROLNET_FILES = ("config.json", "diffusion_pytorch_model.safetensors")
OPTIONAL_FILES = ("dgkit.json", "tokenizer/special_tokens_map.json", "controlnet/*")
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(/[\w.-]+)*$")


def embedded_model() -> Path:
    """The folder of the model that ships inside the package; ModelError where this copy of dgkit lacks it."""
    if not (EMBEDDED / "model_index.json").is_file():
        raise ModelError(
            f"the embedded model is missing from this installation ({EMBEDDED})",
            "pass --model FOLDER, or install a dgkit wheel, which carries it",
        )
    return EMBEDDED


def find_model(model: str | Path | None) -> Path:
    """The folder of a pipeline: ``None`` is the embedded model, else a folder or a hub id ``owner/name``."""
    return embedded_model() if model is None else _find(model, PRIOR_FILES, OPTIONAL_FILES)


def find_controlnet(controlnet: str | Path) -> Path:
    """The folder of a ControlNet: a folder, or a hub id ``owner/name[/subfolder]``.

    A pipeline folder that holds ``controlnet/`` stands for that sub-folder.
    """
    folder = _find(controlnet, CONTROLNET_FILES, ())
    if not (folder / "config.json").is_file() and (folder / "controlnet" / "config.json").is_file():
        return folder / "controlnet"
    return folder


def _find(source: str | Path, files: tuple[str, ...], optional: tuple[str, ...]) -> Path:
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
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
    except Exception as error:  # the client's own errors, its HTTP library's, the system's: one meaning for a user
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{source} is no folder here and could not be fetched from the hub ({reason}); needed: {', '.join(wanted)}",
            hint,
        ) from error
    folder = Path(root, *rest)
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise ModelError(f"{source} on the hub lacks, or its cached copy lacks: {', '.join(missing)}", hint)
    return folder
