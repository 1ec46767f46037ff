"""The two-pass sampler against outputs of the published code on a tiny random model (tests/golden/README.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dgkit.diffusion.fusion import large_components
from dgkit.diffusion.loading import load_pipeline
from dgkit.diffusion.passes import Run, SceneState
from dgkit.diffusion.pipeline import Pipeline
from dgkit.diffusion.presets import PRESETS
from dgkit.diffusion.sampler import SceneRequest, sample

pytestmark = [pytest.mark.parity, pytest.mark.golden]
GOLDEN = Path(__file__).parents[1] / "golden"


class Golden:
    """A golden file, its preset, and noise from one generator in the published order."""

    def __init__(self, name: str) -> None:
        with np.load(GOLDEN / f"official_{name}.npz") as arrays:
            self.arrays = {key: arrays[key] for key in arrays}
        self.meta = json.loads(str(self.arrays["meta"]))
        self.preset = replace(
            PRESETS["official"],
            steps=self.meta["steps"],
            stride=self.meta["stride"] / 64,
            large_area=self.meta["large_area"],
            guidance_scale=self.meta["guidance_scale"],
            rescale=self.meta["rescale"],
        )
        self.request = SceneRequest(self.arrays["label_crop"], self.meta["prompt"], self.meta["seed"])
        self.generator = torch.Generator().manual_seed(self.meta["seed"])

    def noise(self, seed: int, purpose: str, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator)

    def error(self, name: str, value: torch.Tensor) -> float:
        error = float(np.abs(value.numpy() - self.arrays[name]).max())
        print(f"{name}: largest error {error:.2g}")
        return error

    def levels(self, image: np.ndarray) -> int:
        difference = np.abs(image.astype(int) - self.arrays["final_image"])
        print(f"final_image: at most {difference.max()} level(s), on {(difference > 0).mean():.2%} of the values")
        return int(difference.max())


PACKAGES = {"ort": "onnxruntime", "openvino": "openvino"}
# The second: 25 windows instead of 9, so twice the time.
TWO = ("a", pytest.param("b", marks=pytest.mark.slow))
BATCH = 4  # ONNX Runtime keeps several copies of the attention scores of a call, 270 MB per sample at this size


@pytest.fixture(scope="module", params=["torch", *(pytest.param(name, marks=pytest.mark.slow) for name in PACKAGES)])
def pipeline(request: pytest.FixtureRequest) -> Iterator[Pipeline]:
    if request.param in PACKAGES:
        pytest.importorskip(PACKAGES[request.param], reason="needs the extra: pip install 'dgkit[cpu]'")
    with load_pipeline(GOLDEN / "tiny-sd", engine=request.param) as opened:
        yield opened


@pytest.mark.parametrize("name", ["a", "b"])
def test_large_components(name: str) -> None:
    golden = Golden(name)
    mask = large_components(golden.request.label, golden.preset.large_area)
    assert np.array_equal(mask, golden.arrays["large_mask"].astype(bool))
    assert 0 < mask.sum() < mask.size


@pytest.mark.parametrize("name", TWO)
def test_each_pass(pipeline: Pipeline, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second pass starts from the golden result of the first pass, so that errors do not add up."""
    golden = Golden(name)
    decoded: list[torch.Tensor] = []
    counted: list[tuple[int, int]] = []
    decode, bridge = pipeline.decode, Run.bridge

    def golden_bridge(run: Run, scenes: list[SceneState]) -> torch.Tensor:
        assert golden.error("pass1_latents", decoded[0]) < 1e-4
        assert golden.error("upsampled_latents", bridge(run, scenes)) < 5e-3
        return torch.from_numpy(golden.arrays["upsampled_latents"])

    monkeypatch.setattr(pipeline, "decode", lambda latents: (decoded.append(latents), decode(latents))[1])
    monkeypatch.setattr(Run, "bridge", golden_bridge)
    result = sample(
        pipeline,
        [golden.request],
        golden.preset,
        batch=BATCH,
        noise=golden.noise,
        progress=lambda done, total: counted.append((done, total)),
    )[0]
    assert golden.error("pass2_latents", decoded[-1]) < 1e-4
    assert golden.levels(result.image) <= 1
    assert result.high_res is not None and result.high_res.shape == (1024, 1024, 3)
    assert not result.retried
    windows = 1 + (64 // golden.meta["stride"] + 1) ** 2
    assert counted[-1] == (2 * windows * golden.meta["steps"],) * 2


def test_first_pass_and_bridge_in_another_setting(pipeline: Pipeline) -> None:
    golden = Golden("b")
    run = Run(pipeline, golden.preset, batch=BATCH, noise=golden.noise)
    with torch.inference_mode():
        (scene,) = run.scenes([golden.request])
        first = run.first_pass([scene])
        scene.low = run.finish(scene, next(run.decode(first)))
        upsampled = run.bridge([scene])
    assert not scene.shortened and scene.finite
    assert golden.error("pass1_latents", first) < 1e-4
    assert golden.error("upsampled_latents", upsampled) < 5e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a", "b"])
def test_end_to_end(pipeline: Pipeline, name: str) -> None:
    golden = Golden(name)
    result = sample(pipeline, [golden.request], golden.preset, batch=BATCH, noise=golden.noise)[0]
    assert golden.levels(result.image) <= 1
