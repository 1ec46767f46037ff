"""Properties of this machine that an engine depends on: package versions, CPU instruction sets, GPU capability.

They are part of an engine's key; :func:`local_key` returns the key as this machine would build it now. Torch is
imported only for GPUs.
"""

import platform
from collections.abc import Iterable
from pathlib import Path

from dgkit import provenance
from dgkit.diagnosis import cpu
from dgkit.engines.sidecar import FORMAT, EngineKey

# Distributions that provide each backend, in order of preference.
PACKAGES = {
    "torch": ("torch",),
    "compile": ("torch",),
    "onnx": ("onnx",),
    "ort": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
    "trt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "rtx": ("tensorrt-rtx",),
}
NOT_INSTALLED = "not installed"
_DRIVER = Path("/sys/module/nvidia/version")


def backend_version(backend: str) -> str:
    """Return the version of the package that provides a backend, or :data:`NOT_INSTALLED`."""
    found = (provenance.version(package) for package in PACKAGES.get(backend, ()))
    return next((version for version in found if version is not None), NOT_INSTALLED)


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the installed version of each package, or :data:`NOT_INSTALLED`."""
    return {package: provenance.version(package) or NOT_INSTALLED for package in packages}


def device_facts(device: str) -> dict[str, str]:
    """Return the properties of ``device`` that an engine depends on.

    ``device`` is ``any``, ``cpu``, ``cuda`` or ``cuda:N``. For a CPU architecture and instruction sets, for a GPU name,
    compute capability and driver; ``kind: none`` if this machine does not have the GPU.
    """
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return {"kind": "cpu", "arch": platform.machine(), "features": " ".join(cpu().features)}
    if kind == "cuda":
        return _cuda_facts(int(number or 0))
    return {"kind": "any"}


def local_key(key: EngineKey) -> EngineKey:
    """Return ``key`` as this machine would build it now: with its own versions, device and format."""
    return key.model_copy(
        update={
            "backend_version": backend_version(key.backend),
            "versions": package_versions(key.versions),
            "device": _same_device(key.device),
            "format": FORMAT,
        }
    )


def _same_device(wanted: dict[str, str]) -> dict[str, str]:
    """Return this machine's device of the same kind; of several GPUs the one equal to ``wanted``, if any."""
    kind = wanted.get("kind", "any")
    if kind != "cuda":
        return device_facts(kind)
    found = [_cuda_facts(0)]
    while found[-1]["kind"] == "cuda" and found[-1] != wanted:
        found.append(_cuda_facts(len(found)))
    return found[-1] if found[-1] == wanted else found[0]


def _cuda_facts(index: int) -> dict[str, str]:
    import torch

    if index >= torch.cuda.device_count():
        return {"kind": "none"}
    card = torch.cuda.get_device_properties(index)
    driver = _DRIVER.read_text(encoding="ascii").strip() if _DRIVER.is_file() else "unknown"
    return {"kind": "cuda", "name": card.name, "capability": f"{card.major}.{card.minor}", "driver": driver}
