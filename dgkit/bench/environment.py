"""The columns shared by all rows of a run: device, versions and commit."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import torch

from dgkit import __version__, provenance
from dgkit.bench.bench_config import BenchTask
from dgkit.diagnosis import cpu
from dgkit.engines.machine import device_facts
from dgkit.engines.runner import find_device

_PACKAGES = ("torch", "diffusers", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx")


def find_environment(task: BenchTask) -> Iterator[dict[str, Any]]:
    """Yield the cells that all rows of a run share. Device ``auto`` becomes ``cuda`` if available, else ``cpu``."""
    name = task.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = find_device(name)
    facts = device_facts(name)
    processor = cpu()
    versions = {package: provenance.version(package) for package in _PACKAGES}
    yield {
        "run": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": name,
        "gpu": facts["name"] if device.type == "cuda" else "",
        "driver": facts["driver"] if device.type == "cuda" else "",
        "cpu": f"{processor.name}, {processor.cores} cores",
        "threads": torch.get_num_threads(),
        "python": provenance.record()["python"],
        "versions": " ".join(f"{package} {number}" for package, number in versions.items() if number),
        "dgkit": __version__,
        "commit": provenance.git_commit() or "",
    }
