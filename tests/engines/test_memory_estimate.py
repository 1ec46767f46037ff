"""Estimates of device memory against what PyTorch allocated on an H100 and allocates on the CPU."""

from __future__ import annotations

import csv

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from dgkit.diffusion.loading import model_networks, open_model
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.diffusion.model_memory import model_needs
from dgkit.diffusion.random_model import RandomModel
from dgkit.engines.memory_estimate import CONTEXT, SURPLUS, WORKSPACE, estimate, together
from dgkit.engines.onnx_export import example_inputs
from dgkit.errors import UsageError
from tests.benchmarks.scripts import BENCHMARKS

MIB = 1 << 20
MEASURED = [
    row
    for row in csv.DictReader((BENCHMARKS / "results" / "gpu_check_h100.csv").read_text(encoding="utf-8").splitlines())
    if row["engine"] == "torch" and row["network"] and row["torch_mib"]
]


def compare(model: str | None, rows: list[dict[str, str]]) -> None:
    """The measured peaks include the inputs and a copy of the outputs, and those with a graph its static tensors."""
    networks = model_networks(open_model(model))
    for row in rows:
        found = estimate(networks[row["network"]], row["dtype"], int(row["batch"])).total / MIB
        print(row["network"], row["dtype"], row["batch"], row["note"], f"{found:.0f} MiB, measured {row['torch_mib']}")
        assert 0.95 < found / float(row["torch_mib"]) < 1.15


def test_embedded_model_on_an_h100() -> None:
    compare(None, [row for row in MEASURED if row["model"] == "embedded"])


@pytest.mark.slow
def test_stable_diffusion_against_an_h100() -> None:
    compare("random:sd15", [row for row in MEASURED if row["model"] == "random:sd15"])


def test_against_allocations_on_the_cpu() -> None:
    """The profiler records every allocation: their running sum peaks where the estimate does."""
    network = model_networks(RandomModel("tiny"))["vae_decoder"]
    module, inputs = network.load(), example_inputs(network, batch=3)
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        module(*inputs.values())
    live = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    assert estimate(network, "fp32", 3).activations == pytest.approx(SURPLUS * peak, rel=0.15)


def test_dtype_and_batch(folder: ModelFolder) -> None:
    network = model_networks(folder)["denoiser"]
    full, half, bits = (estimate(network, dtype, 2) for dtype in ("fp32", "fp16", "int8"))
    assert full.weights == 2 * half.weights == 4 * bits.weights > 0
    assert half.activations == bits.activations < full.activations
    assert estimate(network, "fp16", 8).activations == pytest.approx(4 * half.activations, rel=0.01)


def test_all_networks_of_a_model(folder: ModelFolder) -> None:
    needs = model_needs(folder, "fp16", 4)
    assert {need.network: (need.dtype, need.batch) for need in needs} == {
        "text_encoder": ("fp32", 32), "condition": ("fp16", 4), "denoiser": ("fp16", 4),
        "vae_encoder": ("fp32", 256), "vae_decoder": ("fp16", 256),
    }  # fmt: skip
    total = sum(need.weights for need in needs) + max(need.activations for need in needs)
    assert together(needs) == total + WORKSPACE + CONTEXT


def test_wrong_values_are_refused(folder: ModelFolder) -> None:
    network = model_networks(folder)["condition"]
    with pytest.raises(UsageError, match="batch 0"):
        estimate(network, "fp32", 0)
    with pytest.raises(UsageError, match="unknown dtype 'fp7'"):
        estimate(network, "fp7", 1)
