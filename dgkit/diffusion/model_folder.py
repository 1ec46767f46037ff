"""Model folders: their parts, and the sizes and settings of the model.

A folder is opened and checked without torch, whose import takes a second.
"""

import functools
import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dgkit.config import Config, load_config
from dgkit.diffusion.part_config import PARTS, SUPPORTED, TEXT_ENCODERS, read_config, read_json
from dgkit.diffusion.part_fit import check_fit, encoder_width, is_sdxl, pooled_width, text_width, vae_factor
from dgkit.diffusion.tokenizer_files import TokenizerFiles, TokenizerPair
from dgkit.diffusion.weight_files import check_headers, count_weights, find_weights
from dgkit.engines.spec import TIME_VALUES
from dgkit.errors import InputError, ModelError, UsageError, one_line
from dgkit.files import digest_file
from dgkit.taxonomies import CITYSCAPES19, Taxonomy, find_taxonomy

if TYPE_CHECKING:
    from torch import nn

RANDOM = "random:"  # prefix of the names of models that are made in memory
_INDEX = "model_index.json"


class AppliedLora(Config):
    """A LoRA that ``dgkit swap --lora`` fused into a model: ``name`` and SHA-256 of its file, and its scale."""

    name: str
    digest: str
    scale: float


class ModelDefaults(Config):
    """``dgkit.json``: the settings that a model was trained for. All are optional."""

    name: str = ""
    """Name of the model in records; empty: the name of the folder."""
    label_height: int | None = None
    """Height in pixels that label maps are scaled to before cropping; None: not scaled."""
    guidance_scale: float | None = None
    """Classifier-free guidance scale, used if the preset has none."""
    preset: str | None = None
    """Sampler preset that was measured with the model, used if none is stated."""
    loras: tuple[AppliedLora, ...] = ()
    """LoRA in the weights, so that none is applied twice."""


class ConditionDefaults(Config):
    """``controlnet/dgkit.json``: what the condition channels of a ControlNet are."""

    taxonomy: str | dict[str, Any] | None = None
    """Name or content of the taxonomy whose classes are the channels; None: the 19 classes of Cityscapes."""


@dataclass(frozen=True)
class ModelInfo:
    """Sizes and settings of a model: ``tile`` in latent cells per side, ``text_length`` in tokens."""

    name: str
    tile: int
    vae_factor: int
    latent_channels: int
    text_length: int
    text_width: int
    features: int
    scaling_factor: float
    scheduler: dict[str, Any]
    defaults: ModelDefaults
    pooled_width: int = 0
    """Width of the pooled text embedding; 0 for a model whose denoiser takes no such input."""
    zero_empty: bool = False
    """Whether the embeddings of an empty prompt are zeros."""
    vae_fp16: bool = True
    """Whether the VAE's activations stay in the range of fp16."""
    taxonomy: Taxonomy = CITYSCAPES19

    @property
    def size(self) -> int:
        """Pixels per side of the images that the model was trained on."""
        return self.tile * self.vae_factor

    def symbol_sizes(self) -> dict[str, int]:
        """Return an example size of every symbol in :mod:`dgkit.engines.spec`: the model's own tile at batch 2."""
        pooled = {"pooled_width": self.pooled_width, "time_values": TIME_VALUES} if self.pooled_width else {}
        return {
            **pooled,
            "batch": 2,
            "length": self.text_length,
            "text_width": self.text_width,
            "latent_channels": self.latent_channels,
            "features": self.features,
            "height": self.tile,
            "width": self.tile,
            "rgb": 3,
            "classes": self.taxonomy.channels,
            "image_height": self.size,
            "image_width": self.size,
        }


class ModelSource(Protocol):
    """The parts of a model by name: a :class:`ModelFolder`, or a model that is made in memory."""

    @property
    def info(self) -> ModelInfo:
        """Sizes and settings."""
        ...

    @property
    def configs(self) -> dict[str, dict[str, Any]]:
        """The config of each part by name."""
        ...

    def part(self, name: str) -> "nn.Module":
        """Return a part with its weights; the same module until :meth:`release`."""
        ...

    def outline(self, name: str) -> "nn.Module":
        """Return a part without its weights, on the meta device."""
        ...

    def release(self) -> None:
        """Drop the cached parts; modules that a caller holds stay valid."""
        ...

    def digest(self, *parts: str) -> str:
        """Return the SHA-256 (hex) over weights and configs of ``parts``; of the whole model without ``parts``."""
        ...

    def weight_count(self, *parts: str) -> int:
        """Return the number of weights of ``parts``, without loading them."""
        ...

    def command_words(self) -> str:
        """Return the model as command-line arguments, quoted for a shell."""
        ...

    def tokenizer(self) -> Any:
        """Return a callable with the interface of CLIP's tokenizer; for two text encoders a :class:`TokenizerPair`."""
        ...


class ModelFolder:
    """The parts of a model in a folder, checked to fit together; weights are read by :meth:`part`.

    The condition channels are the classes of ``taxonomy``, by default of the one that the ControlNet states. Raises
    ModelError with the missing part, or the file and what differs.
    """

    def __init__(self, root: Path, controlnet: Path | None = None, taxonomy: Taxonomy | None = None) -> None:
        self.root = root
        self.paths = find_parts(root)
        if controlnet is not None:
            self.paths["controlnet"] = controlnet
        for name, path in self.paths.items():
            if not path.is_dir():
                raise ModelError(f"the model folder {root} has no {name}/", _HINTS.get(name, ""))
        self.configs = {name: read_config(path, name) for name, path in self.paths.items()}
        classes = taxonomy or controlnet_taxonomy(self.paths["controlnet"])
        check_fit(self.configs, self.paths, classes)
        self.info = _info(root, self.configs, classes)
        self.part = functools.cache(self._build)

    def _build(self, name: str) -> "nn.Module":
        from dgkit.diffusion.weights import build

        return build(self.paths[name], name, self.configs[name])

    def outline(self, name: str) -> "nn.Module":
        """Return a part without its weights, on the meta device."""
        from dgkit.diffusion.weights import skeleton

        return skeleton(self.paths[name], name, self.configs[name])

    def command_words(self) -> str:
        """Return the model as command-line arguments, quoted for a shell, with ``--controlnet`` if given."""
        controlnet = self.paths["controlnet"]
        own = controlnet == self.root / "controlnet"
        return shlex.join([str(self.root), *(() if own else ("--controlnet", str(controlnet)))])

    def release(self) -> None:
        """Drop the cached parts; modules that a caller holds stay valid."""
        self.part.cache_clear()

    def weight_count(self, *parts: str) -> int:
        """Return the number of weights of ``parts``, from the headers of their files."""
        return sum(count_weights(find_weights(self.paths[name], name), name) for name in parts)

    def digest(self, *parts: str) -> str:
        """Return the SHA-256 (hex) over weights and configs of ``parts``; without ``parts`` over all of them, scheduler
        and tokenizer.
        """
        total = hashlib.sha256()
        for name in parts or tuple(self.paths):
            weights = find_weights(self.paths[name], name)
            check_headers(weights)
            files = " ".join(_file_digest(path) for path in weights.paths)
            total.update(f"{name} {files} ".encode())
            total.update(json.dumps(self.configs[name], sort_keys=True).encode())
        if not parts:
            if not self.info.taxonomy.is_default:
                total.update(self.info.taxonomy.text.encode())
            total.update(json.dumps(self.info.scheduler, sort_keys=True).encode())
            for tokens, config in tokenizers(self.root, self.configs):
                total.update("".join(tokens.digest_parts(encoder_width(config), _positions(config))).encode())
            total.update(b"empty prompt as zeros" if self.info.zero_empty else b"")
        return total.hexdigest()

    def tokenizer(self) -> Any:
        """Return the tokenizer of the folder, for SDXL a pair.

        Raises ModelError if its files are missing or damaged.
        """
        loaded = [files.load(config.get("vocab_size", 49408)) for files, config in tokenizers(self.root, self.configs)]
        return loaded[0] if len(loaded) == 1 else TokenizerPair(*loaded)


@functools.lru_cache(maxsize=64)
def _cached_digest(path: Path, size: int, modified: int) -> str:
    return digest_file(path)


def _file_digest(path: Path) -> str:
    status = path.stat()
    return _cached_digest(path, status.st_size, status.st_mtime_ns)


_HINTS = {
    "controlnet": "pass --controlnet, or add one with dgkit swap",
    "text_encoder_2": "SDXL has two text encoders: copy text_encoder_2/ and tokenizer_2/ from the original model",
}


def find_parts(root: Path) -> dict[str, Path]:
    """Return the folders of the parts that a model needs, by name; whether they exist is not checked.

    Raises ModelError if the folder holds a model of another kind.
    """
    unet = root / "unet"
    if not unet.is_dir():
        index = read_json(root / _INDEX) if (root / _INDEX).is_file() else {}
        kind = index.get("_class_name")
        if (root / "transformer").is_dir() or (isinstance(kind, str) and not kind.startswith("StableDiffusion")):
            named = one_line(str(kind or "model with a transformer"), 80)
            raise ModelError(f"{root} holds a {named}, which is not supported", f"supported: {SUPPORTED}")
        raise ModelError(f"the model folder {root} has no unet/")
    second = ("text_encoder_2",) if is_sdxl(read_config(unet, "unet")) else ()
    return {name: root / name for name in (*PARTS, *second)}


def tokenizers(root: Path, configs: Mapping[str, dict[str, Any]]) -> list[tuple[TokenizerFiles, dict[str, Any]]]:
    """Return the files of each tokenizer, with the config of its text encoder."""
    found = [(root / name.replace("text_encoder", "tokenizer"), name) for name in TEXT_ENCODERS if name in configs]
    for folder, name in found:
        if not folder.is_dir():
            raise ModelError(f"the model folder {root} has no {folder.name}/", _HINTS.get(name, ""))
    return [(TokenizerFiles(folder), configs[name]) for folder, name in found]


def zeros_for_empty(root: Path) -> bool:
    """Return whether an SDXL model was trained with zeros as the embeddings of an empty prompt."""
    index = read_json(root / _INDEX) if (root / _INDEX).is_file() else {}
    return index.get("force_zeros_for_empty_prompt", True) is not False


def _info(root: Path, configs: dict[str, dict[str, Any]], taxonomy: Taxonomy) -> ModelInfo:
    unet, vae = configs["unet"], configs["vae"]
    tile = unet.get("sample_size")
    if not isinstance(tile, int):
        raise ModelError(f"{root / 'unet' / 'config.json'}: sample_size is {tile}; expected a number of latent cells")
    defaults = _defaults(root / "dgkit.json")
    lengths = [files.length(_positions(config)) for files, config in tokenizers(root, configs)]
    two = len(lengths) > 1
    return ModelInfo(
        name=defaults.name or root.resolve().name,
        tile=tile,
        vae_factor=vae_factor(vae),
        latent_channels=int(unet.get("in_channels", 4)),
        text_length=min(lengths),
        text_width=text_width(configs),
        features=int(configs["controlnet"]["block_out_channels"][0]),
        scaling_factor=float(vae.get("scaling_factor", 0.18215)),
        scheduler=read_json(root / "scheduler" / "scheduler_config.json"),
        defaults=defaults,
        pooled_width=pooled_width(configs),
        zero_empty=two and zeros_for_empty(root),
        vae_fp16=not (two and vae.get("force_upcast", True)),
        taxonomy=taxonomy,
    )


def _positions(text: Mapping[str, Any]) -> int:
    return int(text.get("max_position_embeddings", 77))


def _defaults(path: Path) -> ModelDefaults:
    if not path.is_file():
        return ModelDefaults()
    try:
        return load_config(ModelDefaults, read_json(path))
    except UsageError as error:
        raise ModelError(f"{path}: {error.message}", error.hint) from error


def controlnet_taxonomy(folder: Path) -> Taxonomy:
    """Return the taxonomy that the ``dgkit.json`` of a ControlNet states, by default Cityscapes. Raises ModelError."""
    path = folder / "dgkit.json"
    if not path.is_file():
        return CITYSCAPES19
    try:
        return find_taxonomy(load_config(ConditionDefaults, read_json(path)).taxonomy)
    except (UsageError, InputError) as error:
        raise ModelError(f"{path}: {error.message}", error.hint) from error


def condition_text(taxonomy: Taxonomy) -> str | None:
    """Return the content of the ``dgkit.json`` of a ControlNet of these classes; None if they are the default."""
    if taxonomy.is_default:
        return None
    return json.dumps({"taxonomy": taxonomy.document()}, indent=2) + "\n"
