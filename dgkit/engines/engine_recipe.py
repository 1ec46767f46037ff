"""Which backend, precision and batch each network of a model gets: what a recipe of ``engines/`` states."""

import importlib
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from pydantic import Field, field_validator

from dgkit.config import Config
from dgkit.diagnosis import install_line
from dgkit.engines.runner import QUANTISED, RUNNERS, BuildOptions, Network, Runner, runner_class
from dgkit.engines.spec import NETWORKS, network_spec
from dgkit.engines.store import Policy
from dgkit.errors import UsageError
from dgkit.progress import Notify

Precision = Literal["fp32", "bf16", "fp16", "int8"]
CPU_ONLY = frozenset({"openvino"})


class NetworkRecipe(Config):
    """What one network has of its own; what is left out is that of the recipe."""

    engine: str | None = None
    """backend"""
    dtype: Precision | None = None
    """number format"""
    batch: tuple[int, int, int] | None = None
    """samples of one call: the fewest, the number that the engine is tuned for, the most"""

    @field_validator("engine")
    @classmethod
    def _known(cls, engine: str | None) -> str | None:
        return engine if engine is None else known_engine(engine)


class EngineRecipe(Config):
    """How the networks of a model are run. The defaults are the recipe that is used where none is given."""

    engine: str = "ort"
    """backend: torch, compile, ort, openvino or trt"""
    dtype: Precision = "fp32"
    """number format of all networks but the text encoder, which stays fp32, and in fp16 the VAE encoder. int8 is that
    of the denoiser, beside which the others compute in bf16 where OpenVINO has it, else in fp32"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto: cuda where there is one and the engine runs on it"""
    networks: dict[str, NetworkRecipe] = Field(default_factory=dict)
    """exceptions by network"""
    options: BuildOptions = BuildOptions()
    """how engines are built; a backend with limits of its own, such as TensorRT's for a VAE, keeps within them"""

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

    def choice(self, name: str) -> tuple[str, str, BuildOptions]:
        """Backend, number format and options of the network called ``name``."""
        own = self.networks.get(name, NetworkRecipe())
        options = BuildOptions(**{**self.options.model_dump(), "batch": own.batch or self.options.batch})
        engine = own.engine or self.engine
        return engine, own.dtype or recipe_dtype(name, engine, self.dtype), options

    def runners(
        self, networks: Mapping[str, Network], rebuild: Policy = "auto", notify: Notify | None = None
    ) -> dict[str, Runner]:
        """A runner of each network by name, not opened; UsageError where a backend refuses its device or dtype."""
        choices = {name: self.choice(name) for name in networks}
        engines = dict.fromkeys(engine for engine, _, _ in choices.values())
        devices = {engine: resolve_device(self.device, engine, notify) for engine in engines}
        found = {}
        for name, network in networks.items():
            engine, dtype, options = choices[name]
            device = devices[engine]
            found[name] = runner_class(engine)(network, device, dtype, rebuild=rebuild, notify=notify, options=options)
        beside = [f"{name} in {found[name].dtype_name}" for name in found if name not in ("text_encoder", "denoiser")]
        if notify and self.dtype in QUANTISED and beside:
            notify(f"{self.dtype} is for the denoiser: {', '.join(beside)}")
        return found


def recipe_dtype(name: str, engine: str, dtype: str) -> str:
    """What ``dtype`` of a whole recipe is for the network called ``name``. The text encoder stays fp32: it runs once a
    prompt. So does the VAE encoder in fp16, whose range is not that of every VAE (``force_upcast`` of diffusers).
    """
    if name == "text_encoder" or (name, dtype) == ("vae_encoder", "fp16"):
        return "fp32"
    return network_dtype(name, engine, dtype)


def network_dtype(name: str, engine: str, dtype: str) -> str:
    """``dtype`` for the network called ``name``. int8 is the denoiser's alone: beside it the text encoder gets fp32,
    and the others bf16 if they run on an OpenVINO that has it here, else fp32.
    """
    if dtype not in QUANTISED or name == "denoiser":
        return dtype
    if name == "text_encoder":
        return "fp32"
    from dgkit.engines.openvino_runner import has_bf16

    return "bf16" if engine == "openvino" and has_bf16() else "fp32"


def known_engine(engine: str) -> str:
    """``engine`` itself; UsageError lists the known ones. The backend is not imported."""
    if engine not in RUNNERS:
        raise UsageError(f"unknown engine {engine!r}; known: {', '.join(RUNNERS)}")
    return engine


def choose_networks(names: str | Iterable[str] = "all") -> tuple[str, ...]:
    """Names of networks in the order of the spec, from ``all`` or ``denoiser,vae_decoder``; UsageError if unknown."""
    if names == "all":
        return tuple(NETWORKS)
    listed = names.split(",") if isinstance(names, str) else names
    wanted = {network_spec(name.strip()).name for name in listed}
    return tuple(name for name in NETWORKS if name in wanted)


def resolve_device(device: str, engine: str = "torch", notify: Notify | None = None) -> str:
    """``auto`` as ``cuda`` where torch sees a GPU and ``engine`` runs on one, else ``cpu``; any other as it is.

    ``notify`` is told where a GPU is left alone because the ONNX Runtime that is installed is the one for CPUs.
    """
    if device != "auto":
        return device
    if engine in CPU_ONLY or not torch.cuda.is_available():
        return "cpu"
    if engine != "ort" or not _cpu_only_onnxruntime():
        return "cuda"
    if notify:
        notify(f"engine ort runs on the CPU: this onnxruntime has no CUDA; for the GPU: {install_line('gpu')}")
    return "cpu"


def _cpu_only_onnxruntime() -> bool:
    """Whether the installed ONNX Runtime has no CUDA provider; False where none loads, as the runner says more."""
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        return False
    return "CUDAExecutionProvider" not in runtime.get_available_providers()


def parse_batch(text: str) -> tuple[int, int, int]:
    """``1,8,64`` as three numbers, and ``8`` as that number thrice; UsageError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (1, 3) or not all(part.isdecimal() for part in parts):
        raise UsageError(f"batch {text!r}; expected min,opt,max or one number", "such as --batch 1,8,64")
    least, usual, most = (int(part) for part in (parts if len(parts) == 3 else parts * 3))
    return least, usual, most
