from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dgkit.config import load_config
from dgkit.diffusion.loading import load_pipeline, model_networks
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.diffusion.presets import Preset
from dgkit.diffusion.sampler import SceneRequest, sample
from dgkit.engines import onnx_export as export
from dgkit.engines.onnx_export import example_inputs, export_engine, export_network, graph_key, relative_error
from dgkit.engines.ort import OrtRunner, output_shapes
from dgkit.engines.runner import BuildOptions
from dgkit.engines.sidecar import key_differences
from dgkit.engines.spec import NETWORKS
from dgkit.engines.store import EngineStore
from dgkit.engines.torch_runner import TorchRunner
from dgkit.errors import EngineError, MissingDependency, UsageError
from dgkit.optional import install_command
from tests.engines.refusals import hint_of_refusal
from tests.models import make_micro_model

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


@pytest.mark.parity
def test_samples_the_same_image(micro_folder: Path) -> None:
    said: list[str] = []
    label = np.random.default_rng(0).choice([0, 2, 10, 13, 255], (8, 8)).astype(np.uint8)
    request = SceneRequest(label.repeat(8, 0).repeat(8, 1), "road", 0)
    images = []
    for engine in ("torch", "ort"):
        with load_pipeline(micro_folder, engine=engine, notify=said.append) as pipeline:
            images.append(sample(pipeline, [request], Preset("quick", steps=2))[0].image.astype(int))
    assert np.abs(images[0] - images[1]).max() <= 1
    assert said == []
    with load_pipeline(micro_folder, engine="ort", rebuild="never", notify=said.append) as pipeline:
        assert {path.name.partition("-")[0] for path in EngineStore().root.iterdir()} >= set(pipeline.runners)
    with pytest.raises(UsageError, match="known: never, auto, always"):
        load_pipeline(micro_folder, engine="ort", rebuild="maybe")  # type: ignore[arg-type]


def test_exports_once(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    network = model_networks(folder)["condition"]
    path = export_network(network)
    monkeypatch.setattr(export, "_export", lambda *_: pytest.fail("exported again"))
    assert export_network(network) == path


def test_a_graph_that_differs_from_pytorch_is_refused(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(export, "relative_error", lambda *_: float("nan"))
    with pytest.raises(EngineError, match="differs from PyTorch by nan"):
        export_network(model_networks(folder)["condition"])
    assert not list((tmp_path / "engines").iterdir())


def test_the_side_car_of_a_graph(folder: ModelFolder) -> None:
    network = model_networks(folder)["vae_encoder"]
    engine = export_engine(network)
    assert engine.key == graph_key(network) and engine.sidecar.model == str(folder.root)
    assert engine.key.shapes["height"] == "any" and engine.key.shapes["latent_channels"] == 4
    assert set(engine.key.versions) >= {"torch", "diffusers", "transformers"}
    errors = engine.sidecar.notes["error"]
    assert isinstance(errors, dict) and set(errors) == {"mean", "logvar"}
    assert all(isinstance(error, float) and 0 <= error < export.TOLERANCES["fp32"] for error in errors.values())


def test_other_weights_give_another_graph(folder: ModelFolder, tmp_path: Path) -> None:
    other = model_networks(ModelFolder(make_micro_model(tmp_path / "other", text_time=True, text_length=12, seed=1)))
    for name, network in model_networks(folder).items():
        assert {item.field for item in key_differences(graph_key(network), graph_key(other[name]))} == {"weights"}


def test_a_damaged_graph_is_never_used(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path))
    network = model_networks(folder)["condition"]
    hint = hint_of_refusal(OrtRunner(network, rebuild="never"), "there is no onnx engine in fp32 for the condition")
    assert hint == f"dgkit build-engines {folder.root} --engine ort --networks condition --dtype fp32 --rebuild always"
    for damage in (False, True):
        with OrtRunner(network) as runner:
            expected = runner(**example_inputs(network))["condition"]
        with OrtRunner(network, rebuild="never") as runner:
            assert torch.equal(runner(**example_inputs(network))["condition"], expected)
        if not damage:
            path = export_network(network)
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
            with pytest.raises(EngineError, match=r"sha256 of model\.onnx: expected"):
                OrtRunner(network, rebuild="never").__enter__()
    first, second = logged.messages
    assert "there is no onnx engine" in first and "sha256 of model.onnx" in second


def test_other_sizes_of_a_tile_are_refused(folder: ModelFolder) -> None:
    network = model_networks(folder)["condition"]
    with OrtRunner(network) as runner, pytest.raises(EngineError, match="condition"):
        runner(label=torch.zeros(1, 20, 32, 32))


@pytest.mark.parametrize("name", NETWORKS)
def test_output_shapes(folder: ModelFolder, name: str) -> None:
    network = model_networks(folder)[name]
    other = {"height": 6, "width": 10, "image_height": 48, "image_width": 80} if name.startswith("vae_") else {}
    inputs = example_inputs(network, batch=3, **other)
    with TorchRunner(network) as runner:
        shapes = {key: tuple(value.shape) for key, value in runner(**inputs).items()}
    assert output_shapes(network, inputs) == shapes


def test_providers_of_a_gpu(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dgkit.engines.runner.find_device", lambda name: torch.device(name))
    network = model_networks(folder)["condition"]
    cuda, tensorrt = "CUDAExecutionProvider", "TensorrtExecutionProvider"
    runner = OrtRunner(network, "cuda:1", "fp16")
    assert [(name, settings["device_id"]) for name, settings in runner._providers([tensorrt, cuda])] == [(cuda, 1)]
    built = OrtRunner(network, "cuda", "fp16", options=load_config(BuildOptions, optimisation_level=3))
    assert [name for name, _ in built._providers([tensorrt, cuda])] == [tensorrt, cuda]
    with pytest.raises(MissingDependency, match="no TensorrtExecutionProvider"):
        built._providers([cuda])
    with pytest.raises(MissingDependency, match="no CUDAExecutionProvider, only CPU") as caught:
        runner._providers(["CPUExecutionProvider"])
    assert install_command("gpu") in caught.value.hint
    with pytest.raises(UsageError, match="fp32 and fp16 on a GPU"):
        OrtRunner(network, "cuda", "bf16")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_on_a_gpu(folder: ModelFolder, name: str, dtype: str) -> None:
    runtime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in runtime.get_available_providers():
        pytest.skip("needs onnxruntime-gpu: pip install 'dgkit[gpu]'")
    network = model_networks(folder)[name]
    with TorchRunner(network) as reference, OrtRunner(network, "cuda", dtype) as runner:
        for batch in (1, 5):
            inputs = example_inputs(network, batch=batch, seed=batch)
            expected, found = reference(**inputs), runner(**{key: value.cuda() for key, value in inputs.items()})
            for key, value in expected.items():
                assert found[key].device.type == "cuda"
                error = relative_error(found[key].float().cpu().numpy(), value.numpy())
                assert error < {"fp32": 1e-3, "fp16": 1e-2}[dtype]


@pytest.mark.parametrize("settings", [{"dtype": "bf16"}, {"dtype": "fp16"}])
def test_fp32_on_the_cpu_only(folder: ModelFolder, settings: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="only fp32 on a CPU, and fp32 and fp16 on a GPU"):
        OrtRunner(model_networks(folder)["condition"], **settings)
