from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dgkit.config import load_config
from dgkit.diffusion.loading import model_networks
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.engines.fake import FakeRunner
from dgkit.engines.onnx_export import relative_error
from dgkit.engines.runner import RUNNERS, BuildOptions, Runner, find_device, runner_class
from dgkit.engines.spec import NETWORKS, network_spec
from dgkit.engines.torch_runner import TorchRunner
from dgkit.errors import EngineError, UsageError


def decode(latents: Tensor) -> dict[str, Tensor]:
    return {"image": latents[:, :3].repeat_interleave(2, 2).repeat_interleave(2, 3)}


@pytest.fixture()
def runner() -> FakeRunner:
    return FakeRunner("vae_decoder", decode, {"latent_channels": 4, "rgb": 3})


def test_runs_only_inside_with(runner: FakeRunner) -> None:
    latents = torch.zeros(1, 4, 2, 2)
    with pytest.raises(EngineError, match="not open"):
        runner(latents=latents)
    with runner:
        assert runner(latents=latents)["image"].shape == (1, 3, 4, 4)
        with pytest.raises(EngineError, match="already open"):
            runner.__enter__()
    with pytest.raises(EngineError, match="not open"):
        runner(latents=latents)
    with runner:  # can be opened again
        runner(latents=latents)


def test_checks_inputs(runner: FakeRunner) -> None:
    with runner:
        for tensors, words in (
            ({}, r"got inputs \[\]; expected \['latents'\]"),
            ({"latents": torch.zeros(1, 4, 2, 2), "x": torch.zeros(1)}, r"expected \['latents'\]"),
            ({"latents": torch.zeros(4, 2, 2)}, "expected .batch, latent_channels, height, width"),
            ({"latents": torch.zeros(1, 5, 2, 2)}, "latent_channels 5 .* expected 4"),
            ({"latents": torch.zeros(1, 4, 2, 2, dtype=torch.int64)}, "int64; expected float"),
        ):
            with pytest.raises(EngineError, match=words):
                runner(**tensors)


def test_checks_sizes_across_inputs_and_outputs() -> None:
    def denoise(**tensors: Tensor) -> dict[str, Tensor]:
        return {"prediction": tensors["latents"][:, :, 1:]}

    good = {
        "latents": torch.zeros(2, 4, 3, 3),
        "timestep": torch.zeros(2, dtype=torch.int64),
        "text": torch.zeros(2, 5, 6),
        "condition": torch.zeros(2, 7, 3, 3),
        "control_scale": torch.ones(2),
    }
    with FakeRunner("denoiser", denoise) as runner:
        for name, value, words in (
            ("timestep", torch.zeros(3, dtype=torch.int64), "timestep has batch 3"),
            ("timestep", torch.zeros(2), "timestep is torch.float32; expected int64"),
            ("condition", torch.zeros(2, 7, 3, 4), "condition has width 4"),
        ):
            with pytest.raises(EngineError, match=words):
                runner(**{**good, name: value})
        with pytest.raises(EngineError, match="prediction has height 2"):
            runner(**good)


def test_counts_its_work(runner: FakeRunner) -> None:
    with runner:
        for batch in (1, 5):
            runner(latents=torch.zeros(batch, 4, 2, 2))
        assert (runner.timing.calls, runner.timing.samples) == (2, 6)
        assert runner.timing.seconds > 0
    with runner:
        assert runner.timing.calls == 0


def test_closes_after_an_error() -> None:
    closed = []

    class Fragile(FakeRunner):
        def _close(self) -> None:
            closed.append(True)

    with pytest.raises(ValueError, match="inside"), Fragile("vae_decoder", decode):
        raise ValueError("inside")
    assert closed == [True]


def test_every_backend_resolves_to_a_runner() -> None:
    for name in RUNNERS:
        assert issubclass(runner_class(name), Runner)
    with pytest.raises(UsageError, match="known: torch, ort"):
        runner_class("nope")


def test_options(runner: FakeRunner) -> None:
    assert runner.options == BuildOptions() and runner.prepare() == []
    for batch in ("0,1,2", "2,1,3", "1,4,2"):
        with pytest.raises(UsageError, match="expected 1 <= min <= opt <= max"):
            load_config(BuildOptions, batch=tuple(int(size) for size in batch.split(",")))


def test_specs() -> None:
    assert list(NETWORKS) == ["text_encoder", "condition", "denoiser", "vae_encoder", "vae_decoder"]
    with pytest.raises(UsageError, match="known: text_encoder, condition"):
        network_spec("unet")
    with pytest.raises(EngineError, match="unknown sizes"):
        FakeRunner("vae_decoder", decode, {"height": 3})


def test_devices() -> None:
    assert find_device("cpu") == torch.device("cpu")
    for name in ("tpu", "cuda:99", "cuda:x"):
        with pytest.raises(UsageError, match="this machine has cpu"):
            find_device(name)
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no CUDA device"):
            find_device("cuda")


@pytest.mark.parametrize(("engine", "library"), [("ort", "onnxruntime"), ("openvino", "openvino")])
def test_vae_takes_images_of_any_size(folder: ModelFolder, engine: str, library: str) -> None:
    for needed in (library, "onnxscript"):
        pytest.importorskip(needed, reason=f"needs {needed}: pip install 'dgkit[cpu]'")
    network = model_networks(folder)["vae_decoder"]
    latents = torch.randn(1, 4, 16, 6, generator=torch.Generator().manual_seed(0))
    with TorchRunner(network) as torch_runner, runner_class(engine)(network) as runner:
        expected, found = torch_runner(latents=latents)["image"], runner(latents=latents)["image"]
    assert found.shape == (1, 3, 128, 48) and relative_error(found.numpy(), expected.numpy()) < 1e-4
