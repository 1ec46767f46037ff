"""Locating a model: a folder, or a Hugging Face hub id that is downloaded into the hub's cache."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dgkit.diffusion.part_config import KNOWN_PARTS, SUPPORTED
from dgkit.diffusion.weight_files import choose_weights, list_shards
from dgkit.errors import ModelError, one_line, shown

EMBEDDED = Path(__file__).resolve().parent.parent / "models" / "city"


@dataclass(frozen=True)
class HubFiles:
    """Files of a repository that a model needs, uses if they are there, and the folders of its parts."""

    needed: tuple[str, ...]
    optional: tuple[str, ...]
    parts: dict[str, str]
    """Name of a part by its folder, which ends in "/", or is empty."""

    def plain(self) -> list[str]:
        """Return what a model in the plain form has: every part with one file in full precision."""
        weights = [f"{folder}{KNOWN_PARTS[part].stem}.safetensors" for folder, part in self.parts.items()]
        return sorted({*self.needed, *weights}, key=lambda name: (name.count("/"), name))

    def choose(self, names: Sequence[str], where: str) -> tuple[list[str], list[str]]:
        """Return which of the files ``names`` to fetch, without shards, and which are missing.

        Raises ModelError for several variants of weights of which none is preferred.
        """
        needed = [name for name in self.needed if TOKENIZER_PAIRS.get(name, "") not in names]
        chosen = [name for name in (*self.needed, *self.optional) if name in names]
        missing = [name for name in needed if name not in names]
        parts = self.parts | ({"controlnet/": "controlnet"} if "controlnet/config.json" in names else {})
        for folder, part in parts.items():
            own = [name.removeprefix(folder) for name in names if name.startswith(folder)]
            weights = choose_weights(own, part, f"{where}/{folder}".rstrip("/"))
            if weights is None:
                missing.append(f"{folder}{KNOWN_PARTS[part].stem}.safetensors")
            else:
                chosen.append(folder + weights)
        return chosen, missing


TOKENIZERS = ("tokenizer", "tokenizer_2")
# The file with which each file of a pair is not needed.
TOKENIZER_PAIRS = {
    f"{folder}/{name}": f"{folder}/tokenizer.json" for folder in TOKENIZERS for name in ("vocab.json", "merges.txt")
}
PRIOR = HubFiles(
    needed=(
        "model_index.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "text_encoder/config.json",
        "unet/config.json",
        "vae/config.json",
    ),
    optional=(
        "dgkit.json",
        "tokenizer/tokenizer.json",
        "tokenizer/special_tokens_map.json",
        "tokenizer/added_tokens.json",
        "controlnet/config.json",
        "controlnet/dgkit.json",
    ),
    parts={f"{part}/": part for part in ("text_encoder", "unet", "vae")},
)
_SECOND = ("tokenizer_config.json", "vocab.json", "merges.txt")
SDXL_PRIOR = HubFiles(
    needed=(*PRIOR.needed, *(f"tokenizer_2/{name}" for name in _SECOND), "text_encoder_2/config.json"),
    optional=(
        *PRIOR.optional,
        *(f"tokenizer_2/{name}.json" for name in ("tokenizer", "special_tokens_map", "added_tokens")),
    ),
    parts={**PRIOR.parts, "text_encoder_2/": "text_encoder_2"},
)
CONTROLNET = HubFiles(needed=("config.json",), optional=("dgkit.json",), parts={"": "controlnet"})
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
    return embedded_model() if model is None else _find(model, PRIOR)


def find_controlnet(controlnet: str | Path) -> Path:
    """Return the folder of a ControlNet: a folder, or a hub id ``owner/name[/subfolder]``.

    For a model folder that contains ``controlnet/``, that sub-folder is returned.
    """
    folder = _find(controlnet, CONTROLNET)
    if not (folder / "config.json").is_file() and (folder / "controlnet" / "config.json").is_file():
        return folder / "controlnet"
    return folder


def find_lora_file(source: str) -> Path:
    """Return the safetensors file of a LoRA: a file, a folder with one, or a hub id ``owner/name[/file]``.

    Raises ModelError if there is none or it is pickled.
    """
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            return path / _choose_lora([entry.name for entry in path.iterdir()], source)
        exists = path.exists()
    except (OSError, ValueError) as error:
        raise ModelError(f"the LoRA {shown(source)} cannot be found", "check the path") from error
    if exists:
        return path.with_name(_choose_lora([path.name], source))
    if not _HUB_ID.match(source):
        raise ModelError(f"the LoRA {shown(source)} does not exist", "pass a .safetensors file or a hub id")
    owner, name, *rest = source.split("/")
    repository = f"{owner}/{name}"
    try:
        names, cached = _list(repository)
        wanted = "/".join(rest)
        inside = [item for item in names if item == wanted or item.startswith(f"{wanted}/")] if rest else names
        file = _choose_lora(inside, source)
        return (cached or _fetch(repository, [file])) / file
    except ModelError:
        raise
    except Exception as error:  # errors of the client, its HTTP library or the system
        raise ModelError(
            f"the LoRA {shown(source)} is not a file, and downloading it from the hub failed ({_reason(error)})",
            f"with network: hf download {repository} FILE.safetensors, then --lora with the path it prints",
        ) from error


def _choose_lora(names: Sequence[str], where: str) -> str:
    """Return the LoRA among file names: the only safetensors file, or the one that diffusers writes."""
    found = sorted(name for name in names if name.endswith(".safetensors"))
    usual = [name for name in found if PurePosixPath(name).name == "pytorch_lora_weights.safetensors"]
    chosen = found if len(found) == 1 else usual
    if len(chosen) == 1:
        return chosen[0]
    if found:
        listed = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
        raise ModelError(f"{shown(where)} has {len(found)} LoRA files: {listed}", "add the name of one to the path")
    if any(name.endswith((".bin", ".pt", ".pth", ".ckpt")) for name in names):
        raise ModelError(
            f"the LoRA {shown(where)} is pickled, which can execute code; expected a .safetensors file",
            'convert: python -c "import sys, torch; from safetensors.torch import save_file; '
            'save_file(torch.load(sys.argv[1], weights_only=True), sys.argv[2])" LORA.bin LORA.safetensors',
        )
    raise ModelError(f"{shown(where)} has no .safetensors file", "pass a LoRA file or a hub id such as owner/name")


def _find(source: str | Path, files: HubFiles) -> Path:
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            return path
        exists = path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a NUL character, an unknown ~user
        reason = getattr(error, "strerror", None) or one_line(str(error), 100)
        raise ModelError(f"the model {shown(str(source))} cannot be found: {reason}", "check the path") from error
    if exists and files is PRIOR:
        from dgkit.diffusion.single_file import converted

        return converted(path)
    if exists:
        raise ModelError(f"{path} is a file; expected a model folder", "pass the folder that holds config.json")
    if isinstance(source, str) and _HUB_ID.match(source):
        return _download(source, files)
    raise ModelError(f"model folder {path} does not exist", "pass a folder or a hub id such as owner/name")


def _download(source: str, files: HubFiles) -> Path:
    """Return the folder of a model in the hub's cache, fetching what is missing; without network as it is there."""
    owner, name, *rest = source.split("/")
    repository, prefix = f"{owner}/{name}", "".join(f"{part}/" for part in rest)
    plain = [prefix + file for file in files.plain()]
    hint = f"with network: hf download {repository} {' '.join(plain)}"
    try:
        names, cached = _list(repository)
        own = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        if files is PRIOR and "transformer/config.json" in own and "unet/config.json" not in own:
            raise ModelError(
                f"{source} is a model with a transformer, which is not supported", f"supported: {SUPPORTED}"
            )
        if files is PRIOR and "text_encoder_2/config.json" in own:
            files = SDXL_PRIOR
        chosen, missing = files.choose(own, source)
        if missing:
            raise ModelError(f"{source} lacks files on the hub or in its cached copy: {', '.join(missing)}", hint)
        root = cached or _fetch(repository, [prefix + file for file in chosen])
    except ModelError:
        raise
    except Exception as error:  # errors of the client, its HTTP library or the system
        raise ModelError(
            f"{source} is not a folder, and downloading it from the hub failed ({_reason(error)}); "
            f"needed: {', '.join(plain)}",
            hint,
        ) from error
    return Path(root, *rest)


def _list(repository: str) -> tuple[list[str], Path | None]:
    """Return the names of the files on the hub; without network those of the cached copy, and its folder."""
    from huggingface_hub import list_repo_files, snapshot_download

    try:
        return list_repo_files(repository), None
    except Exception:
        try:
            root = Path(snapshot_download(repository, local_files_only=True))
        except Exception:
            root = None
        if root is None:
            raise
        return [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()], root


def _fetch(repository: str, names: list[str]) -> Path:
    """Download files, and the shards that they list; return the folder of the cached copy."""
    from huggingface_hub import snapshot_download

    root = Path(snapshot_download(repository, allow_patterns=names))
    indices = [name for name in names if ".safetensors.index" in name]
    shards = [str(PurePosixPath(name).with_name(shard)) for name in indices for shard in list_shards(root / name)]
    return Path(snapshot_download(repository, allow_patterns=[*names, *shards])) if shards else root


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
