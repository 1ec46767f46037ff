"""Images of the embedded model on every CPU engine against PyTorch in fp32."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from dgkit.diffusion.loading import load_pipeline
from dgkit.diffusion.presets import Preset
from dgkit.diffusion.sampler import SceneRequest, sample
from dgkit.world import render

pytestmark = [pytest.mark.parity, pytest.mark.slow]
PACKAGES = {"ort": ("onnxruntime", "onnxscript"), "openvino": ("openvino", "onnxscript")}


@pytest.fixture(scope="module")
def requests() -> list[SceneRequest]:
    scenes = [render("source", 0, index, height=256, width=256) for index in range(2)]
    return [SceneRequest(scene.label, "a street, a car, a building", seed) for seed, scene in enumerate(scenes)]


def draw(requests: list[SceneRequest], engine: str, dtype: str) -> list[np.ndarray]:
    with load_pipeline(engine=engine, dtype=dtype) as pipeline:
        return [result.image.astype(float) for result in sample(pipeline, requests, Preset("exact", steps=4))]


@pytest.fixture(scope="module")
def reference(requests: list[SceneRequest]) -> list[np.ndarray]:
    return draw(requests, "torch", "fp32")


@pytest.mark.parametrize(
    ("engine", "dtype", "least"),
    [
        ("torch", "bf16", 30),
        ("ort", "fp32", 40),
        ("openvino", "fp32", 40),
        ("openvino", "bf16", 30),
        ("compile", "fp32", 40),
        ("compile", "bf16", 30),
    ],
)
def test_the_same_scenes(
    requests: list[SceneRequest], reference: list[np.ndarray], engine: str, dtype: str, least: float
) -> None:
    for package in PACKAGES.get(engine, ()):
        pytest.importorskip(package, reason=f"needs {package}: pip install 'dgkit[cpu]'")
    if engine == "compile" and not shutil.which("g++"):
        pytest.skip("needs a C++ compiler: g++")
    for wanted, found in zip(reference, draw(requests, engine, dtype), strict=True):
        quality = 10 * np.log10(255**2 / max(float(np.square(found - wanted).mean()), 1e-9))
        print(f"{engine} {dtype}: {quality:.1f} dB")
        assert wanted.std() > 20 and quality >= least
