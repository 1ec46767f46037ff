"""TensorRT or TensorRT-RTX on a GPU, in addition to the tests of all backends: ``pytest -m gpu``."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dgkit.diffusion.loading import model_networks, open_model
from dgkit.diffusion.random_model import RandomModel
from dgkit.engines.compare import TOLERANCES, Comparison, EngineSpec, run_in_batches
from dgkit.engines.layers import check_layers
from dgkit.engines.onnx_export import example_inputs, relative_error
from dgkit.engines.runner import BuildOptions, Network
from dgkit.engines.torch_runner import TorchRunner
from dgkit.engines.trt import TrtRunner
from dgkit.errors import EngineError
from tests.engines.gpu_libraries import need_tensorrt
from tests.models import random_networks

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _usable() -> None:
    need_tensorrt()


def runner_of(network: Network, **options: Any) -> TrtRunner:
    return TrtRunner(network, "cuda", "fp16", options=BuildOptions(**{"batch": (1, 2, 4), **options}))


def error_of(network: Network, runner: TrtRunner, **sizes: int) -> float:
    """Return the largest error of an output of the open runner against PyTorch in fp32 on the CPU."""
    inputs = example_inputs(network, **sizes)
    with TorchRunner(network) as reference:
        expected = reference(**inputs)
    found = runner(**inputs)
    assert {value.dtype for value in found.values()} == {torch.float16}
    return max(relative_error(found[key].float().cpu().numpy(), expected[key].numpy()) for key in expected)


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_images_of_any_size_and_batches_above_the_profile(cuda_graph: bool) -> None:
    network = random_networks("tiny")["vae_decoder"]
    height, width = network.sizes["height"], network.sizes["width"]
    with runner_of(network, cuda_graph=cuda_graph) as runner:
        for batch, high, wide in ((1, 1, 1), (4, 1, 1), (9, 1, 1), (1, 2, 4), (3, 1, 2)):
            error = error_of(network, runner, batch=batch, height=high * height, width=wide * width)
            print(f"batch {batch}, {high} x {wide} tiles: {error:.1e}")
            assert error < TOLERANCES["fp16"]
        with pytest.raises(EngineError, match="the engine supports batch 1 to 4"):
            runner(latents=torch.zeros(1, network.sizes["latent_channels"], 8 * height, width))


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_a_call_does_not_wait_for_the_gpu(cuda_graph: bool) -> None:
    network = random_networks("tiny")["denoiser"]
    inputs = {name: value.cuda() for name, value in example_inputs(network).items()}
    with runner_of(network, cuda_graph=cuda_graph) as runner:
        first = runner(**inputs)["prediction"]
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            second = runner(**inputs)["prediction"]
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.equal(first, second)


def test_weights_loaded_when_opened() -> None:
    network = random_networks("tiny")["denoiser"]
    whole, stripped = runner_of(network), runner_of(network, strip_weights=True)
    sizes = [runner.prepare()[0].sidecar.size for runner in (whole, stripped)]
    print(f"{sizes[0]} bytes with weights, {sizes[1]} without")
    assert sizes[1] < sizes[0]
    with stripped as runner:
        assert error_of(network, runner) < TOLERANCES["fp16"]


def test_layers_of_an_engine_equal_those_of_the_graph() -> None:
    def load() -> Network:
        return random_networks("tiny")["denoiser"]

    report = check_layers(Comparison(load, EngineSpec("torch"), EngineSpec("trt", "fp16"), device="cuda"))
    print(f"{len(report.checks)} layers, worst {report.worst.output} {report.worst.relative:.1e}")
    assert len(report.checks) > 20 and report.first is None


def test_refitted_engine_equals_a_fresh_build() -> None:
    first, second = (model_networks(RandomModel("tiny", seed=seed))["denoiser"] for seed in (0, 1))
    with runner_of(first, refit=True) as runner:
        assert error_of(first, runner) < TOLERANCES["fp16"]
    with runner_of(second, refit=True) as runner:
        assert "refitted_from" in runner.prepare()[0].sidecar.notes
        assert error_of(second, runner) < TOLERANCES["fp16"]
        assert error_of(first, runner) > TOLERANCES["fp16"]  # these are the new weights
        refitted = runner(**example_inputs(second))["prediction"]
    with runner_of(second) as runner:
        fresh = runner(**example_inputs(second))["prediction"]
    assert relative_error(refitted.float().cpu().numpy(), fresh.float().cpu().numpy()) < TOLERANCES["fp16"]


@pytest.mark.parametrize("budget", [None, 0.0])
def test_streamed_weights_give_the_same_outputs(budget: float | None) -> None:
    network = random_networks("tiny")["denoiser"]
    with runner_of(network, weight_streaming=True, weight_budget_gib=budget) as runner:
        assert error_of(network, runner) < TOLERANCES["fp16"]


@pytest.mark.parametrize("dtype", ["int8", "fp8"])
def test_eight_bits(dtype: str) -> None:
    for package in ("modelopt", "onnxslim"):
        pytest.importorskip(package)
    if dtype == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("fp8 needs compute capability 8.9")
    network = model_networks(open_model())["denoiser"]
    with TrtRunner(network, "cuda", dtype) as runner:
        held_out = runner.held_out()
        assert held_out is not None
        found = run_in_batches(runner, held_out[0], 4)["prediction"].cpu()
    assert relative_error(found.numpy(), held_out[1]["prediction"].numpy()) < TOLERANCES[dtype]
