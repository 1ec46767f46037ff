"""Group norms of one group become norms over [C, H, W]; everything else is unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dgkit.engines.openvino_graph import join_norms
from dgkit.optional import openvino_core

pytest.importorskip("openvino", reason="needs openvino: pip install 'dgkit[cpu]'")
pytest.importorskip("onnxscript", reason="needs onnxscript: pip install 'dgkit[cpu]'")


class Blocks(nn.Module):
    """Group norms as in a VAE, with one group and with two, and a layer norm over the channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.split = nn.GroupNorm(1, 8), nn.GroupNorm(1, 8), nn.GroupNorm(2, 8)
        self.channels, self.mix = nn.LayerNorm(8), nn.Conv2d(8, 8, 3, padding=1)
        for norm in (self.first, self.second, self.split, self.channels):
            nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)

    def forward(self, picture: Tensor) -> Tensor:
        x = self.mix(nn.functional.silu(self.first(picture))) + picture
        x = self.mix(nn.functional.silu(self.second(x))) + self.split(x)
        return self.channels(x.permute(0, 2, 3, 1))


def read(module: nn.Module, path: Path, shape: tuple[int, ...]) -> Any:
    dynamic = {"picture": {0: torch.export.Dim("n"), **{axis: torch.export.Dim(f"d{axis}") for axis in (2, 3)}}}
    torch.onnx.export(
        module.eval(), (torch.randn(shape),), path, input_names=["picture"], dynamic_shapes=dynamic, verbose=False
    )
    return openvino_core().read_model(path)


def run(model: Any, picture: np.ndarray) -> np.ndarray:
    compiled = openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled.create_infer_request().infer([picture], share_outputs=False)[0])


def flattened(model: Any) -> int:
    norms = [node for node in model.get_ops() if node.get_type_name() == "MVN"]
    return sum(node.input_value(0).get_node().get_type_name() == "Reshape" for node in norms)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of PyTorch's exporter
def test_norms_of_one_group_are_replaced(tmp_path: Path) -> None:
    module = Blocks()
    model = read(module, tmp_path / "blocks.onnx", (2, 8, 16, 12))
    picture = np.random.default_rng(0).normal(3, 2, (3, 8, 10, 14)).astype(np.float32)
    assert flattened(model) == 3
    assert join_norms(model) == 2 and flattened(model) == 1
    expected = module(torch.from_numpy(picture)).detach().numpy()
    np.testing.assert_allclose(run(model, picture), expected, atol=2e-5)
    assert join_norms(model) == 0


def test_another_scale_shift_or_axis_is_not_replaced() -> None:
    """Variants that are no group norm of one group, and a norm over each value."""
    from openvino import Model
    from openvino import opset13 as op

    def built(scale: float, shift: float, axis: int) -> Any:
        picture = op.parameter([-1, 4, 6, 6], np.float32)
        flat = op.mvn(op.reshape(picture, np.array([0, 1, -1]), True), np.array([axis]), True, 1e-5, "inside_sqrt")
        moved = op.add(op.multiply(flat, np.full((1, 1, 1), scale, np.float32)), np.full((1,), shift, np.float32))
        return Model([op.reshape(moved, op.shape_of(picture), False)], [picture])

    picture = np.random.default_rng(0).normal(size=(2, 4, 6, 6)).astype(np.float32)
    for *how, joined in ((1.0, 0.0, 2, 1), (2.0, 0.0, 2, 0), (1.0, 0.5, 2, 0), (1.0, 0.0, 1, 0)):
        expected = run(built(*how), picture)
        model = built(*how)
        assert join_norms(model) == joined
        np.testing.assert_allclose(run(model, picture), expected, atol=1e-5)
