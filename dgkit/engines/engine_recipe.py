"""Engine recipes: the backend, precision and batch of each network of a model. See the folder ``engines/``."""

import importlib
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from pydantic import Field, field_validator

from dgkit.config import Config
from dgkit.diagnosis import install_line
from dgkit.engines.runner import QUANTISED, BuildOptions, Network, Runner, known_engine, runner_class
from dgkit.engines.spec import NETWORKS, network_spec
from dgkit.engines.store import Policy
from dgkit.errors import UsageError
from dgkit.progress import Notify

Precision = Literal["fp32", "bf16", "fp16", "int8", "fp8"]
CPU_ONLY = frozenset({"openvino"})


class NetworkRecipe(Config):
    """Settings of one network; those left out are taken from the recipe."""

    engine: str | None = None
    """backend"""
    dtype: Precision | None = None
    """number format"""
    batch: tuple[int, int, int] | None = None
    """samples per call: minimum, the number that the engine is tuned for, maximum"""

    @field_validator("engine")
    @classmethod
    def _known(cls, engine: str | None) -> str | None:
        return engine if engine is None else known_engine(engine)


class EngineRecipe(Config):
    """How the networks of a model are run. The default values are the default recipe."""

    engine: str = "ort"
    """backend: torch, compile, ort, openvino or trt"""
    dtype: Precision = "fp32"
    """number format of the networks. The text encoder always stays fp32, the VAE encoder does in fp16, as does the VAE
    decoder of SDXL, unless force_upcast is false in its config.json. int8 and
    fp8 apply to the denoiser; the others then use fp16 with TensorRT, bf16 if OpenVINO supports it here, else fp32"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto: cuda if there is a GPU that the engine supports"""
    networks: dict[str, NetworkRecipe] = Field(default_factory=dict)
    """exceptions by network"""
    options: BuildOptions = BuildOptions()
    """how engines are built; a backend reduces values above its own limits, such as TensorRT's batch for a VAE"""

    @field_validator("engine")
    @classmethod
    def _known(cls, engine: str) -> str:
        return known_engine(engine)

    @field_validator("networks")
    @classmethod
    def _networks(cls, networks: dict[str, NetworkRecipe]) -> dict[str, NetworkRecipe]:
        for name in networks:
            network_spec(name)
        return networks

    def choice(self, name: str, fp16: bool = True) -> tuple[str, str, BuildOptions]:
        """Return backend, number format and options of the network called ``name``; ``fp16``: it may be in fp16."""
        own = self.networks.get(name, NetworkRecipe())
        options = BuildOptions(**{**self.options.model_dump(), "batch": own.batch or self.options.batch})
        engine = own.engine or self.engine
        common = recipe_dtype(name, engine, self.dtype)
        return engine, own.dtype or (common if fp16 or common != "fp16" else "fp32"), options

    def runners(
        self, networks: Mapping[str, Network], rebuild: Policy = "auto", notify: Notify | None = None
    ) -> dict[str, Runner]:
        """Return a runner for each network by name, not opened.

        Raises UsageError if a backend does not support its device or dtype.
        """
        choices = {name: self.choice(name, network.fp16) for name, network in networks.items()}
        engines = dict.fromkeys(engine for engine, _, _ in choices.values())
        devices = {engine: resolve_device(self.device, engine, notify) for engine in engines}
        found = {}
        for name, network in networks.items():
            engine, dtype, options = choices[name]
            device = devices[engine]
            found[name] = runner_class(engine)(network, device, dtype, rebuild=rebuild, notify=notify, options=options)
        others = [f"{name} in {found[name].dtype_name}" for name in found if name not in ("text_encoder", "denoiser")]
        if notify and self.dtype in QUANTISED and others:
            notify(f"{self.dtype} applies to the denoiser only; {', '.join(others)}")
        return found


def recipe_dtype(name: str, engine: str, dtype: str) -> str:
    """Return the dtype of the network called ``name`` if ``dtype`` is that of the whole recipe.

    The text encoder stays fp32, because it runs once per prompt. The VAE encoder does in fp16, because some VAEs exceed
    its range (``force_upcast`` of diffusers).
    """
    found = network_dtype(name, engine, dtype)
    return "fp32" if name == "text_encoder" or (name, found) == ("vae_encoder", "fp16") else found


def network_dtype(name: str, engine: str, dtype: str) -> str:
    """Return ``dtype`` for the network called ``name``, with a substitute for 8 bits unless it is the denoiser.

    The text encoder gets fp32. The others get fp16 if ``engine`` is TensorRT, bf16 if it is OpenVINO and supports that
    on this CPU, else fp32.
    """
    if dtype not in QUANTISED or name == "denoiser":
        return dtype
    if name == "text_encoder":
        return "fp32"
    if engine == "trt":
        return "fp16"
    from dgkit.engines.openvino_runner import has_bf16

    return "bf16" if engine == "openvino" and has_bf16() else "fp32"


def choose_networks(names: str | Iterable[str] = "all") -> tuple[str, ...]:
    """Return network names in the order of the spec, from ``all``, a comma-separated string or an iterable.

    Raises UsageError for an unknown name.
    """
    if names == "all":
        return tuple(NETWORKS)
    listed = names.split(",") if isinstance(names, str) else names
    wanted = {network_spec(name.strip()).name for name in listed}
    return tuple(name for name in NETWORKS if name in wanted)


def resolve_device(device: str, engine: str = "torch", notify: Notify | None = None) -> str:
    """Return ``cuda`` for ``auto`` if torch sees a GPU that ``engine`` supports, else ``cpu``; other values unchanged.

    ``notify`` gets a line if the GPU is unused because the installed ONNX Runtime is the one for CPUs.
    """
    if device != "auto":
        return device
    if engine in CPU_ONLY or not torch.cuda.is_available():
        return "cpu"
    if engine != "ort" or not _cpu_only_onnxruntime():
        return "cuda"
    if notify:
        notify(f"engine ort uses the CPU: the installed onnxruntime has no CUDA; for the GPU: {install_line('gpu')}")
    return "cpu"


def _cpu_only_onnxruntime() -> bool:
    """Return whether the installed ONNX Runtime lacks CUDA; False if none loads, which the runner reports in detail."""
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        return False
    from dgkit.engines.ort_providers import ON_GPU

    return ON_GPU.isdisjoint(runtime.get_available_providers())


def parse_batch(text: str) -> tuple[int, int, int]:
    """Parse ``1,8,64`` or one number, which stands for all three. Raises UsageError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (1, 3) or not all(part.isdecimal() for part in parts):
        raise UsageError(f"batch {text!r}; expected min,opt,max or one number", "for example --batch 1,8,64")
    least, usual, most = (int(part) for part in (parts if len(parts) == 3 else parts * 3))
    return least, usual, most
