"""The denoiser of a model; an engine of a few bytes for the tests of the store, and keys that differ in one field."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dgkit.diffusion.loading import model_networks
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.engines.machine import backend_version, device_facts, package_versions
from dgkit.engines.runner import Network
from dgkit.engines.sidecar import EngineKey

KEY = EngineKey(
    network="denoiser",
    weights="a" * 64,
    dtype="fp32",
    shapes={"batch": "1,4,16", "height": 64},
    graph={"opset": 18},
    backend="openvino",
    backend_version=backend_version("openvino"),
    versions=package_versions(["numpy"]),
    device=device_facts("cpu"),
    flags={"cuda_graph": False},
)
CONTENT = bytes(range(256)) * 40


def build(folder: Path) -> Mapping[str, Any]:
    (folder / "model.bin").write_bytes(CONTENT)
    (folder / "weights").mkdir()
    (folder / "weights" / "0.bin").write_bytes(b"weights")
    return {"error": 1e-5}


def refuse(folder: Path) -> None:
    pytest.fail("built although nothing had to be")


def change(**values: Any) -> EngineKey:
    return EngineKey(**{**KEY.model_dump(), **values})


OTHER_KEYS: dict[str, dict[str, Any]] = {
    "weights": {"weights": "b" * 64},
    "shapes.height": {"shapes": {"batch": "1,4,16", "height": 32}},
    "shapes.batch": {"shapes": {"batch": "1,4,32", "height": 64}},
    "dtype": {"dtype": "bf16"},
    "backend_version": {"backend_version": "0.1"},
    "versions.numpy": {"versions": {"numpy": "0.1"}},
    "device.features": {"device": {**KEY.device, "features": "AVX2"}},
    "graph.opset": {"graph": {"opset": 17}},
    "flags.cuda_graph": {"flags": {"cuda_graph": True}},
    "format": {"format": 0},
}


def denoiser(folder: ModelFolder) -> Network:
    folder.release()
    return model_networks(folder)["denoiser"]
