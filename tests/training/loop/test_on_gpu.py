"""Training on a CUDA device, with and without replaying its steps as a CUDA graph: ``pytest -m gpu``."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from dgkit.training.loop.graphs import GraphedGradients
from tests.fits import Toy, toy_fit

pytestmark = pytest.mark.gpu


def losses(folder: Path) -> list[float]:
    with open(folder / "log.csv", newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def gap(a: Toy, b: Toy) -> float:
    """Return the largest difference of a weight."""
    pairs = zip(a.module.parameters(), b.module.parameters(), strict=True)
    return max(float((first.detach().cpu() - second.detach().cpu()).abs().max()) for first, second in pairs)


def test_replayed_gradients_belong_to_their_batch_only() -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.GELU(), torch.nn.Linear(7, 1)).cuda()
    parameters = list(module.parameters())

    def gradients(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        loss = (module(batch["x"]) - batch["y"]).square().mean()
        loss.backward()
        return loss.detach()

    graphed = GraphedGradients(gradients, parameters)
    for number in range(4):
        batch = {"x": torch.randn(6, 5, device="cuda"), "y": torch.randn(6, 1, device="cuda")}
        for parameter in parameters:
            parameter.grad = None
        wanted = gradients(batch)
        expected = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
        for parameter in parameters:  # what an optimizer leaves: nothing, or what was there
            parameter.grad = None if number % 2 else torch.full_like(parameter, 9.0)
        assert torch.allclose(graphed(batch), wanted, rtol=1e-5)
        for parameter, value in zip(parameters, expected, strict=True):
            assert parameter.grad is not None and torch.allclose(parameter.grad, value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-4), ("bf16", 2e-3)])
def test_a_graph_trains_like_single_launches(tmp_path: Path, precision: str, bound: float) -> None:
    plain = toy_fit(tmp_path / "plain", precision=precision, workers=0)
    graph = toy_fit(tmp_path / "graph", precision=precision, workers=0, cuda_graph=True)
    assert next(graph.module.parameters()).device.type == "cuda"
    assert gap(plain, graph) < bound and gap(Toy(), graph) > 0.01
    assert losses(tmp_path / "graph") == pytest.approx(losses(tmp_path / "plain"), rel=0.02)


def test_a_graph_is_captured_again_on_resume(tmp_path: Path) -> None:
    whole = toy_fit(tmp_path / "whole", workers=0, cuda_graph=True)
    toy_fit(tmp_path / "parts", steps=3, schedule="constant", workers=0, cuda_graph=True)
    constant = toy_fit(tmp_path / "constant", schedule="constant", workers=0, cuda_graph=True)
    resumed = toy_fit(tmp_path / "parts", schedule="constant", workers=0, cuda_graph=True)
    assert gap(constant, resumed) < 1e-4 < gap(constant, whole)


def test_half_precision_scales_its_gradients(tmp_path: Path) -> None:
    toy_fit(tmp_path, steps=60, precision="fp16", ema=0.5, checkpoint_every=60, workers=0)
    found = losses(tmp_path)
    assert sum(found[-10:]) < 0.5 * sum(found[:10])


def test_stages_of_different_precision_with_workers(tmp_path: Path) -> None:
    for number, precision in enumerate(("fp16", "fp32", "bf16")):
        toy = toy_fit(tmp_path / str(number), precision=precision, workers=2)
        assert all(torch.isfinite(parameter).all() for parameter in toy.module.parameters())
