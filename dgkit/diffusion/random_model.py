"""Models of a known size with random weights, created in memory to export, build and measure without files.

Every layer has an effect, including those that are zero in a new ControlNet. Equal names and seeds give equal weights
on the same kind of machine and version of torch.
"""

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dgkit.diffusion.model_folder import RANDOM, ModelDefaults, ModelInfo
from dgkit.diffusion.part_config import KNOWN_PARTS, TEXT_ENCODERS
from dgkit.diffusion.tokenizer_files import TokenizerPair
from dgkit.diffusion.weights import construct
from dgkit.engines.machine import package_versions
from dgkit.errors import UsageError, shown
from dgkit.labels import CONDITION_CHANNELS

# The scheduler_config.json of Stable Diffusion 1.5.
SD15_SCHEDULER: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
# The scheduler_config.json of Stable Diffusion 2.1 and of SDXL base.
SD21_SCHEDULER: dict[str, Any] = {
    **SD15_SCHEDULER,
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.8.0",
    "prediction_type": "v_prediction",
}
SDXL_SCHEDULER: dict[str, Any] = {
    **SD15_SCHEDULER,
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.19.0.dev0",
    "interpolation_type": "linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}
# All other defaults of diffusers are those of Stable Diffusion 1.
SD15_UNET: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768}
SD15_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 512,
}
SD15_TEXT: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "vocab_size": 49408,
}
SD21_UNET: dict[str, Any] = {
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
    "upcast_attention": True,
}
SD21_TEXT: dict[str, Any] = {  # OpenCLIP ViT-H without its last layer
    **SD15_TEXT,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
}
SDXL_UNET: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SDXL_VAE: dict[str, Any] = {**SD15_VAE, "scaling_factor": 0.13025, "sample_size": 1024, "force_upcast": True}
SDXL_TEXT_2: dict[str, Any] = {  # OpenCLIP ViT-bigG
    **SD15_TEXT,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
_CITY_UNET: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 8,
    "out_channels": 8,
    "block_out_channels": (64, 96, 160),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 128,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 4,
}
_CITY_VAE: dict[str, Any] = {
    **SD15_VAE,
    "block_out_channels": (16, 48, 64, 96),
    "latent_channels": 8,
    "layers_per_block": 1,
    "norm_num_groups": 1,
    "mid_block_add_attention": False,
    "sample_size": 256,
}
TINY_UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 2,
    "cross_attention_dim": 16,
}
TINY_SD21_UNET: dict[str, Any] = {
    **TINY_UNET,
    "attention_head_dim": (1, 2),
    "use_linear_projection": True,
    "upcast_attention": True,
}
TINY_SDXL_UNET: dict[str, Any] = {
    **TINY_UNET,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2),
    "attention_head_dim": (1, 2),
    "cross_attention_dim": 40,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 68,
}
_TINY_VAE: dict[str, Any] = {
    **SD15_VAE,
    "block_out_channels": (4, 4, 4, 4),
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "sample_size": 64,
}
_TINY_TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "vocab_size": 210,
}


@dataclass(frozen=True)
class Sizes:
    """The configs of a model's parts, and the ``widths`` of the condition encoder; ``text_2`` is SDXL's second one."""

    unet: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]
    widths: tuple[int, ...] = (16, 32, 96, 256)
    text_2: dict[str, Any] | None = None
    scheduler: dict[str, Any] = field(default_factory=lambda: SD15_SCHEDULER)


SIZES = {
    "sd15": Sizes(SD15_UNET, SD15_VAE, SD15_TEXT),
    "sd21": Sizes(SD21_UNET, {**SD15_VAE, "sample_size": 768}, SD21_TEXT, scheduler=SD21_SCHEDULER),
    "sdxl": Sizes(SDXL_UNET, SDXL_VAE, SD15_TEXT, text_2=SDXL_TEXT_2, scheduler=SDXL_SCHEDULER),
    "city": Sizes(
        _CITY_UNET,
        _CITY_VAE,
        {
            "hidden_size": 128,
            "intermediate_size": 128,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "max_position_embeddings": 40,
            "vocab_size": 644,
        },
        (8, 32, 64, 96),
    ),
    "tiny": Sizes(TINY_UNET, _TINY_VAE, _TINY_TEXT, (4, 4, 4, 8)),
    "tiny-sd21": Sizes(TINY_SD21_UNET, _TINY_VAE, _TINY_TEXT, (4, 4, 4, 8), scheduler=SD21_SCHEDULER),
    "tiny-sdxl": Sizes(
        TINY_SDXL_UNET,
        {**_TINY_VAE, "scaling_factor": 0.13025, "force_upcast": True},
        {**_TINY_TEXT, "num_hidden_layers": 2},
        (4, 4, 4, 8),
        {**_TINY_TEXT, "num_hidden_layers": 2, "hidden_size": 24, "projection_dim": 20},
        SDXL_SCHEDULER,
    ),
}
MODELS = tuple(SIZES)


class RandomModel:
    """A :class:`~dgkit.diffusion.model_folder.ModelSource` with random weights.

    ``name``: one of :data:`MODELS`, with the sizes of Stable Diffusion 1.5, 2.1 or SDXL and its ControlNet, of the
    embedded model, or of a model for tests. Raises UsageError for another name.
    """

    def __init__(self, name: str, seed: int = 0) -> None:
        if name not in SIZES:
            raise UsageError(f"unknown random model {shown(name)}; known: {', '.join(MODELS)}", "use random:tiny")
        self.name, self.seed = name, seed
        self.configs = _configs(name)
        self._made: dict[str, nn.Module] = {}
        sizes = SIZES[name]
        unet, vae, text, second = sizes.unet, sizes.vae, sizes.text, sizes.text_2 or {}
        self.info = ModelInfo(
            name=f"{RANDOM}{name}",
            tile=unet["sample_size"],
            vae_factor=2 ** (len(vae["block_out_channels"]) - 1),
            latent_channels=unet.get("in_channels", 4),
            text_length=text["max_position_embeddings"],
            text_width=text["hidden_size"] + second.get("hidden_size", 0),
            features=unet.get("block_out_channels", (320,))[0],
            scaling_factor=vae.get("scaling_factor", 0.18215),
            scheduler=sizes.scheduler,
            defaults=ModelDefaults(name=f"{RANDOM}{name}"),
            pooled_width=second.get("projection_dim", 0),
            zero_empty=bool(second),
            vae_fp16=not second,
        )

    def part(self, name: str) -> nn.Module:
        """Return a part with its weights; the same module until :meth:`release`."""
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def release(self) -> None:
        """Drop the cached parts; modules that a caller holds stay valid."""
        self._made.clear()

    def outline(self, name: str) -> nn.Module:
        """Return a part without its weights, on the meta device."""
        with torch.device("meta"):
            return construct(name, self.configs[name])

    def weight_count(self, *parts: str) -> int:
        """Return the number of weights of ``parts``."""
        return sum(weight.numel() for part in parts for weight in self.outline(part).parameters())

    def digest(self, *parts: str) -> str:
        """Return the SHA-256 (hex) over everything that determines the weights of ``parts``, by default of all."""
        facts = {part: self.configs[part] for part in parts or self.configs}
        versions = package_versions(("torch", "diffusers", "transformers"))  # each may change the initialisation
        facts["random"] = {"model": self.name, "seed": self.seed, **versions}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def command_words(self) -> str:
        """Return the command-line option for this model."""
        return f"--random {self.name}"

    def tokenizer(self) -> Any:
        """Return a tokenizer without a vocabulary file; for two text encoders a :class:`TokenizerPair`."""
        found = [
            HashTokenizer(self.info.text_length, self.configs[name]["vocab_size"])
            for name in TEXT_ENCODERS
            if name in self.configs
        ]
        return found[0] if len(found) == 1 else TokenizerPair(*found)

    def _make(self, part: str) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + tuple(KNOWN_PARTS).index(part))
            with _FastInitialisation():
                module = construct(part, self.configs[part])
                _initialise_zero_layers(module)
        return module.eval().requires_grad_(False)


@dataclass(frozen=True)
class HashTokenizer:
    """A tokenizer with the interface of CLIP's, whose token ids are checksums of words.

    Ids are below ``vocabulary``; the last two mark the beginning, and the end and padding.
    """

    length: int
    vocabulary: int

    def __call__(self, text: str | Sequence[str], **options: Any) -> dict[str, Any]:
        """Return ``input_ids``; options as for CLIP's tokenizer: ``truncation`` and ``padding="max_length"``."""
        limit = self.length if options.get("truncation") else None
        rows = [self._ids(item, limit) for item in ([text] if isinstance(text, str) else text)]
        if options.get("padding") == "max_length":
            rows = [row + [self.vocabulary - 1] * (self.length - len(row)) for row in rows]
        return {"input_ids": rows[0] if isinstance(text, str) else rows}

    def _ids(self, text: str, limit: int | None) -> list[int]:
        words = [zlib.crc32(word.encode()) % (self.vocabulary - 2) for word in text.replace(",", " , ").split()]
        return [self.vocabulary - 2, *words[: None if limit is None else limit - 2], self.vocabulary - 1]


def _configs(name: str) -> dict[str, dict[str, Any]]:
    sizes = SIZES[name]
    unet, second = sizes.unet, sizes.text_2
    own = ("out_channels", "up_block_types", "addition_embed_type_num_heads", "sample_size")
    control = {key: value for key, value in unet.items() if key not in own}
    end = sizes.text["vocab_size"] - 1
    tokens = {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    return {
        "unet": unet,
        "controlnet": {
            **control,
            "conditioning_channels": CONDITION_CHANNELS,
            "conditioning_embedding_out_channels": sizes.widths,
        },
        "vae": sizes.vae,
        "text_encoder": {**sizes.text, **tokens},
        **({} if second is None else {"text_encoder_2": {**second, **tokens}}),
    }


class _FastInitialisation(TorchDispatchMode):
    """A mode in which ``uniform_`` and ``normal_`` repeat one block of random numbers, from a random position.

    Individual random numbers for Stable Diffusion would take longer than many measurements with it. The length of the
    block is prime, so that no two rows of a weight are equal.
    """

    LENGTH = 1_048_573

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves this initialiser untyped
        self._uniform = torch.rand(self.LENGTH)
        self._normal = torch.randn(self.LENGTH)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.uniform_.default:
            low, high = args[1:] + (0.0, 1.0)[len(args) - 1 :]
            return self._fill(args[0], self._uniform, high - low, low)
        if func is torch.ops.aten.normal_.default:
            mean, std = args[1:] + (0.0, 1.0)[len(args) - 1 :]
            return self._fill(args[0], self._normal, std, mean)
        return func(*args, **(kwargs or {}))

    def _fill(self, target: Tensor, block: Tensor, scale: float, offset: float) -> Tensor:
        start, done = int(torch.randint(self.LENGTH, ())), 0
        flat = target.view(-1)
        while done < len(flat):
            piece = block[start : start + len(flat) - done]
            flat[done : done + len(piece)] = piece * scale + offset
            start, done = 0, done + len(piece)
        return target


@torch.no_grad()
def _initialise_zero_layers(module: nn.Module) -> None:
    """Initialise the zero convolutions and the label encoder of a new ControlNet, so that labels have an effect."""
    for name, weight in module.named_parameters():
        if weight.ndim > 1 and ("controlnet_cond_embedding" in name or not weight.any()):
            weight.normal_(std=1.4 * weight[0].numel() ** -0.5)
