"""Provenance of a result: package versions, commit and machine, found without importing the packages."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

# In display order.
PACKAGES = (
    "dgkit", "torch", "diffusers", "transformers", "safetensors", "huggingface_hub", "numpy", "pillow",
    "opencv-python-headless", "opencv-python", "pydantic", "typer", "rich", "onnx", "onnxscript", "onnxruntime",
    "onnxruntime-gpu", "openvino", "nncf", "tensorrt", "tensorrt-rtx", "polygraphy", "onedl-mmengine", "onedl-mmcv",
    "onedl-mmsegmentation", "accelerate", "tensorboard", "peft", "torchmetrics", "ray",
)  # fmt: skip


def version(package: str) -> str | None:
    """Return the version of a distribution, None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Return the version of each installed package of ``PACKAGES``."""
    found = {package: version(package) for package in PACKAGES}
    return {package: number for package, number in found.items() if number is not None}


def git_commit() -> str | None:
    """Return the commit of the checkout that dgkit runs from, followed by ``-dirty`` if tracked files differ.

    None for an installed wheel, even if its environment lies inside another repository.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists() or not (root / "pyproject.toml").is_file():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None


def cpu_name() -> str:
    """Return the model name of the processor, or its architecture on systems that do not report one."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name") and ":" in line]
    return names[0] if names else platform.processor() or platform.machine()


def record() -> dict[str, object]:
    """Return what to record with a measured figure: versions, commit, Python, platform and processor."""
    return {
        "versions": versions(),
        "commit": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
    }
