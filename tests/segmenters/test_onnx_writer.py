"""Segmenters written as ONNX files."""

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from dgkit.errors import EngineError
from dgkit.segmenters.onnx_writer import write_segmenter

for name in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(name, reason=f"needs {name}: pip install 'dgkit[cpu]'")
FACTS = {"classes": ("road", "sky"), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6666666), "side": 32}


def dims(path: Path) -> list[int]:
    import onnx

    return [dim.dim_value for dim in onnx.load(path).graph.input[0].type.tensor_type.shape.dim]


def test_the_file_and_its_side_car(tmp_path: Path) -> None:
    path = tmp_path / "new" / "net.onnx"
    assert write_segmenter(nn.Conv2d(3, 2, 4, 4), path, **FACTS) < 1e-6
    assert dims(path) == [0, 3, 0, 0]
    assert yaml.safe_load(path.with_suffix(".yaml").read_text()) == {
        "layout": "NCHW, RGB, (value / 255 - mean) / std",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.666667],
        "classes": ["road", "sky"],
        "multiple_of": 32,
    }
    write_segmenter(nn.Conv2d(3, 2, 4, 4), path, fixed=True, **FACTS)
    assert dims(path) == [0, 3, 32, 32]
    assert yaml.safe_load(path.with_suffix(".yaml").read_text())["multiple_of"] is None


class OneSize(nn.Module):
    """Computes something else at any size but that of the example image, which the exporter does not notice."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        wide = torch.compiler.is_compiling() or image.shape[-1] == 32
        return image[:, :2] if wide else 2 * image[:, :2]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (OneSize(), "differ from PyTorch by"),
        (nn.Conv2d(3, 5, 4, 4), r"returns \[1, 5, 8, 16\], but 2 classes are named"),
        (nn.Conv2d(4, 2, 4, 4), "cannot be exported to ONNX"),
    ],
)
def test_no_file_is_left_after_an_error(tmp_path: Path, module: nn.Module, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        write_segmenter(module, tmp_path / "net.onnx", **FACTS)
    assert not list(tmp_path.iterdir())
