"""The findings of ``dgkit doctor``: machine, libraries, and the commands that install what is missing."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from dgkit import provenance
from dgkit.optional import first_line, install_command, installer, openvino_core
from dgkit.resources import available_memory, total_memory, usable_cores
from dgkit.texts import count_of

# Instruction sets that speed up the CPU backends: displayed name -> flag in /proc/cpuinfo (x86, then ARM).
CPU_FEATURES = {
    "AVX2": "avx2", "AVX-512": "avx512f", "AVX512_VNNI": "avx512_vnni", "AVX512_BF16": "avx512_bf16",
    "AVX512_FP16": "avx512_fp16", "AMX_BF16": "amx_bf16", "AMX_INT8": "amx_int8", "NEON": "asimd", "ARM_BF16": "bf16",
    "SVE": "sve",
}  # fmt: skip
# Conflicting packages: they install the same module, so that one overwrites files of the other.
CLASHES = (("onnxruntime", "onnxruntime-gpu"), ("opencv-python-headless", "opencv-python"))
# Returns (usable, detail) of a library that loads.
Describe = Callable[[ModuleType], tuple[bool, str]]
GPU_EXTRAS = ("gpu", "rtx")
NVIDIA_FILES = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg")  # the last one in WSL
MODEL_FOLDER = Path(__file__).resolve().parent / "models" / "city"


@dataclass(frozen=True)
class Cpu:
    """The processor; this process may use ``cores`` of its ``cores_total`` cores."""

    name: str
    cores: int
    cores_total: int
    features: tuple[str, ...]


@dataclass(frozen=True)
class Device:
    """A device of torch; ``name`` is a value of ``--device``."""

    name: str
    usable: bool
    detail: str


@dataclass(frozen=True)
class Library:
    """A library that can run the networks; ``engine`` is the value of ``--engine`` that selects it."""

    engine: str
    package: str
    usable: bool
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class Extra:
    """An extra of dgkit; ``missing`` are its packages that are not installed."""

    name: str
    missing: tuple[str, ...]
    remedy: str


@dataclass(frozen=True)
class Diagnosis:
    """All findings about this machine and installation; memory in bytes. ``fastest`` are options of ``generate``."""

    python: str
    platform: str
    commit: str | None
    versions: dict[str, str]
    cpu: Cpu
    memory_total: int
    memory_available: int
    devices: tuple[Device, ...]
    libraries: tuple[Library, ...]
    extras: tuple[Extra, ...]
    fastest: str
    embedded_model: str | None
    problems: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the findings as plain values for JSON."""
        return asdict(self)


def diagnose() -> Diagnosis:
    """Examine this machine. This takes seconds, since it imports all installed inference libraries."""
    processor, found = cpu(), libraries()
    return Diagnosis(
        python=platform.python_version(),
        platform=platform.platform(),
        commit=provenance.git_commit(),
        versions=provenance.versions(),
        cpu=processor,
        memory_total=total_memory(),
        memory_available=available_memory(),
        devices=devices(),
        libraries=found,
        extras=extras(),
        fastest=fastest_engine(found, processor.features),
        embedded_model=str(MODEL_FOLDER) if (MODEL_FOLDER / "model_index.json").is_file() else None,
        problems=problems(),
    )


def cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> Cpu:
    """Return name, cores and instruction sets; the latter are empty on a system without ``cpuinfo``."""
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else ""
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    flags = set(line.group(1).split()) if line else set()
    features = tuple(name for name, flag in CPU_FEATURES.items() if flag in flags)
    return Cpu(provenance.cpu_name(), len(usable_cores()), os.cpu_count() or 1, features)


def devices() -> tuple[Device, ...]:
    """Return the devices that torch supports, usable or not: the CPU, each CUDA device, Apple's GPU."""
    torch, reason = _load("torch")
    if torch is None:
        return (Device("cpu", False, reason),)
    found = [Device("cpu", True, count_of(torch.get_num_threads(), "thread"))]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            detail = f"{card.name}, {card.total_memory / 2**30:.0f} GiB, compute capability {card.major}.{card.minor}"
            found.append(Device(f"cuda:{index}", True, detail))
    else:
        built = "no CUDA device is visible" if torch.version.cuda else "this torch is built without CUDA"
        found.append(Device("cuda", False, built))
    mps = torch.backends.mps.is_available()
    found.append(Device("mps", mps, "Apple GPU" if mps else "needs macOS on Apple silicon"))
    return tuple(found)


def libraries() -> tuple[Library, ...]:
    """Return each library that can run the networks, whether it works here, and how to install it if not.

    Nothing is advised for hardware that is not there.
    """
    gpu, rtx = (install_line(extra) if has_nvidia_gpu() else "" for extra in ("gpu", "rtx"))
    return (
        _library("torch", "torch", "torch", f"{installer()} torch", _torch_detail),
        _library("ort", "onnxruntime", "onnxruntime", install_line("cpu"), _ort_detail),
        _library("openvino", "openvino", "openvino", install_line("cpu"), _openvino_detail),
        _library("trt", "tensorrt", "tensorrt", gpu, _tensorrt_detail),
        _library("rtx", "tensorrt-rtx", "tensorrt_rtx", rtx, _tensorrt_detail),
    )


def has_nvidia_gpu() -> bool:
    """Return whether this machine has an NVIDIA GPU with a driver, also if the installed torch cannot use it."""
    if shutil.which("nvidia-smi") or any(Path(path).exists() for path in NVIDIA_FILES):
        return True
    torch, _ = _load("torch")
    return torch is not None and bool(torch.cuda.is_available())


def fastest_engine(found: Sequence[Library], features: Sequence[str]) -> str:
    """Return the options that select the fastest of the usable libraries, by the measurements in docs/guides.

    ``features`` are those of the processor: with instructions for bf16 it is three times as fast there as fp32.
    """
    torch, _ = _load("torch")
    usable = {library.engine for library in found if library.usable}
    if torch is not None and torch.cuda.is_available():
        return f"--engine {'trt' if 'trt' in usable else 'torch'} --dtype fp16"
    engine = "openvino" if "openvino" in usable else "torch"
    has_bf16 = any(name in features for name in ("AVX512_BF16", "AMX_BF16", "ARM_BF16"))
    return f"--engine {engine} --dtype {'bf16' if has_bf16 else 'fp32'}"


def engine_advice(fastest: str) -> str:
    """Return the line about the ``fastest`` engine; one that is built before its first use pays off in long runs."""
    if "--engine torch" in fastest:
        return fastest
    return f"{fastest}, once built, for long runs; --engine torch for short ones"


def _library(engine: str, package: str, module: str, remedy: str, describe: Describe) -> Library:
    loaded, reason = _load(module)
    if loaded is None:
        return Library(engine, package, False, reason, remedy)
    try:
        return Library(engine, package, *describe(loaded))
    except (
        Exception
    ) as error:  # a partly installed library may fail in any way; the report must be complete nevertheless
        return Library(engine, package, False, f"loads, then fails: {first_line(error)}", remedy)


def _torch_detail(torch: ModuleType) -> tuple[bool, str]:
    return True, f"{torch.__version__}, {'CUDA ' + torch.version.cuda if torch.version.cuda else 'CPU build'}"


def _ort_detail(onnxruntime: ModuleType) -> tuple[bool, str]:
    # Azure's provider calls a remote service.
    names = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    providers = [name for name in names if name != "Azure"]
    return True, f"{onnxruntime.__version__}, providers: {', '.join(providers)}"


def _openvino_detail(openvino: ModuleType) -> tuple[bool, str]:
    found = openvino_core().available_devices
    return bool(found), f"{openvino.__version__.split('-')[0]}, devices: {', '.join(found) or 'none'}"


def _tensorrt_detail(trt: ModuleType) -> tuple[bool, str]:
    """Describe TensorRT, which is usable with a CUDA device; without a driver it builds engines (RTX) but runs none."""
    torch, _ = _load("torch")
    runs = torch is not None and torch.cuda.is_available()
    return runs, str(trt.__version__) if runs else f"{trt.__version__}: builds engines, but no CUDA device to run them"


def extras() -> tuple[Extra, ...]:
    """Return the extras that the installed dgkit declares, with missing packages; empty if it is not installed."""
    try:
        declared = metadata.requires("dgkit") or []
    except metadata.PackageNotFoundError:
        return ()
    packages: dict[str, list[str]] = {}
    for line in declared:
        name = re.match(r"[A-Za-z0-9._-]+", line)
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
        if name and extra:
            packages.setdefault(extra.group(1), []).append(name.group(0))
    missing = {extra: tuple(p for p in names if provenance.version(p) is None) for extra, names in packages.items()}
    return tuple(Extra(extra, absent, _remedy(extra, absent)) for extra, absent in missing.items())


def _remedy(extra: str, missing: tuple[str, ...]) -> str:
    """Return the command that installs the missing packages of an extra; empty if this machine has no use for them."""
    if not missing or (extra in GPU_EXTRAS and not has_nvidia_gpu()):
        return ""
    if extra in ("cpu", "rtx") and provenance.version("onnxruntime-gpu") is not None:
        others = [package for package in missing if package != "onnxruntime"]  # onnxruntime-gpu is the same module
        return f"{installer()} {' '.join(others)}" if others else ""
    return install_line(extra)


def install_line(extra: str) -> str:
    """Return the command that installs an extra here; for GPUs it first removes the onnxruntime that has no CUDA."""
    if extra != "gpu" or provenance.version("onnxruntime") is None:
        return install_command(extra)
    return f"pip uninstall -y onnxruntime && {install_command(extra)}"


def problems() -> tuple[str, ...]:
    """Return the problems of this installation as sentences, each ending with the command that fixes it."""
    return tuple(
        f"{kept} and {other} are both installed and overwrite each other's files: pip uninstall -y {kept} {other} "
        f"&& pip install --no-deps {kept}"
        for kept, other in CLASHES
        if provenance.version(kept) is not None and provenance.version(other) is not None
    )


def _load(module: str) -> tuple[Any, str]:
    """Return (module, ""), or (None, reason why it does not load)."""
    try:
        loaded = importlib.import_module(module)
        spec = getattr(loaded, "__spec__", None)
        if spec is not None and spec.origin is None:  # a folder, such as that of tensorrt-stubs
            return None, "not installed"
        return loaded, ""
    except ModuleNotFoundError as error:
        return None, "not installed" if error.name == module else f"does not load: {first_line(error)}"
    except Exception as error:  # native libraries also raise OSError and RuntimeError
        return None, f"does not load: {first_line(error)}"
