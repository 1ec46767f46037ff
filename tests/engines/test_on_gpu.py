"""Backends on a CUDA device against PyTorch in fp32 on the CPU: ``pytest -m gpu``."""

from __future__ import annotations

import gc
import importlib.util

import pytest
import torch
from torch import Tensor

from dgkit.engines.compare import TOLERANCES, compare_outputs
from dgkit.engines.machine import device_facts
from dgkit.engines.onnx_export import example_inputs
from dgkit.engines.runner import DTYPES, BuildOptions, Network, Runner, runner_class
from dgkit.engines.spec import NETWORKS
from dgkit.engines.torch_runner import TorchRunner
from tests.engines.gpu_libraries import need_tensorrt
from tests.models import random_networks

pytestmark = pytest.mark.gpu

BATCH = (1, 2, 4)


def need(engine: str) -> None:
    """Skip if the library of an engine is not installed, or does not support this GPU."""
    if engine == "compile" and not importlib.util.find_spec("triton"):
        pytest.skip("needs triton")
    if engine == "ort":
        runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime-gpu")
        if "CUDAExecutionProvider" not in runtime.get_available_providers():
            pytest.skip("needs onnxruntime-gpu")
    if engine == "trt":
        need_tensorrt()


def network_of(name: str) -> Network:
    return random_networks("tiny")[name]


def runner_of(engine: str, name: str, dtype: str, *, cuda_graph: bool = True) -> Runner:
    need(engine)
    options = BuildOptions(batch=BATCH, cuda_graph=cuda_graph)
    runner: Runner = runner_class(engine)(network_of(name), "cuda", dtype, options=options)
    return runner


def on_cpu(name: str, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    with TorchRunner(network_of(name)) as runner:
        return runner(**inputs)


def check(name: str, sides: str, expected: dict[str, Tensor], found: dict[str, Tensor], dtype: str) -> None:
    values = {key: value.float().cpu() for key, value in found.items()}
    for item in compare_outputs(name, ("cpu", sides), expected, values, TOLERANCES[dtype]):
        assert item.passed, item


@pytest.mark.parametrize(
    ("engine", "name", "dtype"),
    [
        *(("torch", name, dtype) for name in NETWORKS for dtype in DTYPES),
        ("compile", "denoiser", "fp16"),
        ("ort", "denoiser", "fp32"),
        ("ort", "denoiser", "fp16"),
        *(("trt", "denoiser", dtype) for dtype in DTYPES),
        ("trt", "vae_decoder", "fp16"),
    ],
)
def test_outputs_equal_those_of_the_cpu(engine: str, name: str, dtype: str) -> None:
    inputs = example_inputs(network_of(name), batch=2)
    # By default PyTorch's convolutions in fp32 round their inputs to TF32.
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with exact, runner_of(engine, name, dtype) as runner:
        found = runner(**inputs)
        assert all(value.device.type == "cuda" for value in found.values())
        check(name, f"{engine}:{dtype}", on_cpu(name, inputs), found, dtype)


@pytest.mark.parametrize("cuda_graph", [True, False])
@pytest.mark.parametrize("engine", ["torch", "compile", "ort", "trt"])
def test_an_open_runner_takes_any_batch_and_outputs_belong_to_the_caller(engine: str, cuda_graph: bool) -> None:
    """Each batch size may have its own buffers; the outputs of earlier calls do not change."""
    whole = example_inputs(network_of("denoiser"), batch=4)
    expected = on_cpu("denoiser", whole)["prediction"]
    rows = [(0, 1), (0, 2), (1, 4), (2, 4), (3, 4), (0, 1)]
    with runner_of(engine, "denoiser", "fp16", cuda_graph=cuda_graph) as runner:
        found = []
        for number, (first, last) in enumerate(rows):
            part = {key: value[first:last] for key, value in whole.items()}
            if number % 2:  # inputs may be on any device
                part = {key: value.cuda() for key, value in part.items()}
            found.append(runner(**part)["prediction"])
        for (first, last), value in zip(rows, found, strict=True):
            check("denoiser", engine, {"prediction": expected[first:last]}, {"prediction": value}, "fp16")
        assert torch.equal(found[0], found[-1])


@pytest.mark.parametrize("engine", ["torch", "compile", "ort", "trt"])
def test_a_runner_can_be_opened_again_and_closing_frees_the_device(engine: str) -> None:
    inputs = example_inputs(network_of("denoiser"), batch=4)
    runner = runner_of(engine, "denoiser", "fp16")

    def run() -> tuple[Tensor, int]:
        with runner:
            found = runner(**inputs)["prediction"].cpu()
        gc.collect()
        torch.cuda.synchronize()
        return found, torch.cuda.memory_allocated()

    run()  # libraries allocate their workspaces once
    (first, held), (second, still) = run(), run()
    assert torch.equal(first, second) and still <= held + 2**20 and runner.timing.calls == 1


def test_the_key_of_an_engine_names_its_gpu() -> None:
    major, minor = torch.cuda.get_device_capability(0)
    facts = device_facts("cuda")
    assert facts["kind"] == "cuda" and facts["name"] == torch.cuda.get_device_name(0)
    assert facts["capability"] == f"{major}.{minor}" and facts["driver"]
