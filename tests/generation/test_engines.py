"""``generate`` on every engine: the same scenes, engines built where they are missing, or refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dgkit.cli.app import main
from dgkit.config import load_config
from dgkit.engines.store import EngineStore
from dgkit.errors import EngineError, UsageError
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.run import generate
from dgkit.generation.settings import chosen_engines
from tests.models import make_micro_model
from tests.scenes import FAST, make_labels

EXTRA = "needs {}: pip install 'dgkit[cpu]'"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Settings of a run of two images on a tiny model."""
    root = tmp_path_factory.mktemp("demo")
    return {"model": str(make_micro_model(root / "model")), "labels": make_labels(root / "labels"), "count": 2, **FAST}


@pytest.fixture(scope="module")
def reference(demo: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    return images(generate(tmp_path_factory.mktemp("torch") / "out", **demo).out)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for all tests here, so that each network is exported once."""
    return tmp_path_factory.mktemp("cache")


def images(out: Path) -> list[np.ndarray]:
    return [cv2.imread(str(path)) for path in sorted((out / "images").glob("*.png"))]


def psnr(found: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    difference = np.stack(found).astype(float) - np.stack(wanted)
    return float(10 * np.log10(255**2 / max(np.square(difference).mean(), 1e-9)))


@pytest.mark.parametrize(
    ("engine", "dtype", "least"),
    [
        ("ort", "fp32", 40),
        ("openvino", "fp32", 40),
        ("openvino", "bf16", 30),
        pytest.param("compile", "fp32", 40, marks=pytest.mark.slow),
        pytest.param("compile", "bf16", 30, marks=pytest.mark.slow),
    ],
)
def test_the_same_scenes_on_every_engine(
    demo: dict[str, object],
    reference: list[np.ndarray],
    graphs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    dtype: str,
    least: float,
) -> None:
    for package in {"ort": ("onnxruntime", "onnxscript"), "openvino": ("openvino", "onnxscript")}.get(engine, ()):
        pytest.importorskip(package, reason=EXTRA.format(package))
    monkeypatch.setenv("DGKIT_CACHE", str(graphs))
    settings: dict[str, Any] = demo | {"engine": engine, "dtype": dtype, "device": "cpu"}
    result = generate(tmp_path / "out", **settings)
    found = images(result.out)
    quality = psnr(found, reference)
    print(f"{engine} {dtype}: {quality:.1f} dB")
    assert len(found) == 2 and quality >= least
    notes: list[str] = []
    again = generate(tmp_path / "more", rebuild="never", notify=notes.append, **settings)
    assert notes == [] and all(np.array_equal(a, b) for a, b in zip(images(again.out), found, strict=True))


def test_a_recipe_of_engines(
    demo: dict[str, object], graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason=EXTRA.format(package))
    monkeypatch.setenv("DGKIT_CACHE", str(graphs))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{engine: torch, dtype: bf16, networks: {vae_decoder: {engine: ort, dtype: fp32}}}")
    reports: list[str] = []

    def progress(stage: str, done: float, total: float, note: str = "") -> None:
        reports.append(f"{stage} {note}")

    settings: dict[str, Any] = {key: value for key, value in demo.items() if key not in ("engine", "dtype")}
    generate(tmp_path / "out", engine_recipe=recipe, progress=progress, **settings)
    assert not [line for line in reports if line.startswith("engines ONNX") and "vae_decoder" not in line]
    config = load_config(GenerateConfig, tmp_path / "out" / "config.yaml")
    assert (config.engine, config.dtype) == ("torch", "bf16")
    assert config.engine_recipe == {
        "engine": "torch", "dtype": "bf16", "networks": {"vae_decoder": {"engine": "ort", "dtype": "fp32"}},
    }  # fmt: skip
    recipe.unlink()
    assert generate(tmp_path / "out", config).continued == 2  # the settings stand alone
    with pytest.raises(UsageError, match="--engine-recipe and --engine cannot be combined"):
        generate(tmp_path / "other", engine_recipe=recipe, engine="ort", **settings)


def test_cuda_graphs_can_be_disabled_with_flags_and_recipes() -> None:
    assert chosen_engines(GenerateConfig()).options.cuda_graph
    plain = chosen_engines(GenerateConfig(cuda_graph=False))
    assert not plain.options.cuda_graph and plain.engine == "torch"
    recipe = {"engine": "torch", "options": {"batch": [1, 2, 4]}}
    mixed = chosen_engines(GenerateConfig(cuda_graph=False, engine_recipe=recipe))
    assert not mixed.options.cuda_graph and mixed.options.batch == (1, 2, 4)


def test_never_builds_nothing(
    demo: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript", reason=EXTRA.format("onnxscript"))
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(EngineError, match="there is no onnx engine in fp32 for the text_encoder") as caught:
        generate(tmp_path / "out", device="cpu", rebuild="never", **demo | {"engine": "ort"})
    assert caught.value.hint.startswith(f"dgkit build-engines {demo['model']} --engine ort --networks text_encoder ")
    assert not EngineStore().root.exists()


def test_tensorrt_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused before anything is exported, built or written."""
    monkeypatch.setattr("dgkit.engines.trt.load_library", lambda: None)
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    command = ["generate", str(tmp_path / "out"), "--model", "random:tiny", "--world", "2", "--count", "1"]
    assert main([*command, "--engine", "trt"]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error == "error: TensorRT needs an NVIDIA GPU to run engines; torch sees no CUDA device"
    assert hint == "hint: use --engine torch, openvino or ort"
    assert not EngineStore().root.exists() and not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ort", "openvino", "compile"])
def test_the_demo_of_the_embedded_model(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, engine: str) -> None:
    cache = tmp_path_factory.getbasetemp() / "embedded-cache"
    found = {}
    for name in ("torch", engine):
        command = [sys.executable, "-m", "dgkit", "generate", str(tmp_path / name), "--count", "2", "--device", "cpu"]
        command += ["--engine", name, "--dtype", "fp32", "--preset", "one-pass", "--set", "steps=4"]
        subprocess.run(command, check=True, env={**os.environ, "DGKIT_CACHE": str(cache)})
        found[name] = images(tmp_path / name)
    quality = psnr(found[engine], found["torch"])
    print(f"{engine}: {quality:.1f} dB")
    assert len(found[engine]) == 2 and quality >= 40
