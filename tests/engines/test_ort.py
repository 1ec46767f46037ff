from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dgkit.diffusion.folder import ModelFolder
from dgkit.diffusion.loading import load_pipeline, model_networks
from dgkit.diffusion.presets import Preset
from dgkit.diffusion.sampler import SceneRequest, sample
from dgkit.engines import export
from dgkit.engines.export import example_inputs, export_network, relative_error
from dgkit.engines.ort import OrtRunner
from dgkit.engines.spec import NETWORKS
from dgkit.engines.torch_runner import TorchRunner
from dgkit.errors import EngineError, UsageError

pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'dgkit[cpu]'")
pytest.importorskip("onnxscript", reason="needs onnxscript: pip install 'dgkit[cpu]'")


@pytest.mark.parity
@pytest.mark.parametrize("name", NETWORKS)
def test_against_torch(folder: ModelFolder, name: str) -> None:
    network = model_networks(folder)[name]
    for batch in (1, 5):
        inputs = example_inputs(network, batch=batch, seed=batch)
        with TorchRunner(network) as runner:
            expected = runner(**inputs)
        with OrtRunner(network) as runner:
            found = runner(**inputs)
        for key, value in expected.items():
            error = relative_error(found[key].numpy(), value.numpy())
            print(f"{name} {key} batch {batch}: {error:.1e}")
            assert error < 1e-4


def test_vae_takes_images_of_any_size(folder: ModelFolder) -> None:
    network = model_networks(folder)["vae_decoder"]
    latents = torch.randn(1, 4, 16, 6, generator=torch.Generator().manual_seed(0))
    with TorchRunner(network) as torch_runner, OrtRunner(network) as runner:
        expected, found = torch_runner(latents=latents)["image"], runner(latents=latents)["image"]
    assert found.shape == (1, 3, 128, 48) and relative_error(found.numpy(), expected.numpy()) < 1e-4


@pytest.mark.parity
def test_samples_the_same_image(micro_folder: Path) -> None:
    label = np.random.default_rng(0).choice([0, 2, 10, 13, 255], (8, 8)).astype(np.uint8)
    request = SceneRequest(label.repeat(8, 0).repeat(8, 1), "road", 0)
    images = []
    for engine in ("torch", "ort"):
        with load_pipeline(micro_folder, engine=engine) as pipeline:
            images.append(sample(pipeline, [request], Preset("quick", steps=2))[0].image.astype(int))
    assert np.abs(images[0] - images[1]).max() <= 1


def test_exports_once(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    network = model_networks(folder)["condition"]
    path = export_network(network)
    monkeypatch.setattr(export, "_export", lambda *_: pytest.fail("exported again"))
    assert export_network(network) == path


def test_a_graph_that_differs_is_refused(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(export, "relative_error", lambda *_: float("nan"))
    with pytest.raises(EngineError, match="off by nan"):
        export_network(model_networks(folder)["condition"])
    assert not list((tmp_path / "onnx").iterdir())


def test_other_sizes_of_a_tile_are_refused(folder: ModelFolder) -> None:
    network = model_networks(folder)["condition"]
    with OrtRunner(network) as runner, pytest.raises(EngineError, match="condition"):
        runner(label=torch.zeros(1, 20, 32, 32))


@pytest.mark.parametrize("settings", [{"dtype": "bf16"}, {"dtype": "fp16"}])
def test_fp32_on_the_cpu_only(folder: ModelFolder, settings: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="in fp32"):
        OrtRunner(model_networks(folder)["condition"], **settings)
