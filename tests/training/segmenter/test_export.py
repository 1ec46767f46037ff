"""Exported segmenters, opened as ``dgkit quality`` and ``dgkit eval`` open ONNX files."""

import importlib.util

import numpy as np
import pytest
import torch
import yaml

if importlib.util.find_spec("mmseg") is None:
    pytest.skip("needs mmsegmentation: pip install 'dgkit[seg]'", allow_module_level=True)

pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install 'dgkit[cpu]'")

from dgkit.segmenters.onnx import open_onnx_segmenter
from dgkit.training.segmenter.networks import build_network, model_config
from dgkit.training.segmenter.segmenter_export import export_segmenter


def predicted(net, image: np.ndarray) -> np.ndarray:
    """Return train ids predicted by PyTorch for an image whose sides are multiples of 32."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    batch = torch.from_numpy(((image / 255 - mean) / std).astype(np.float32)).permute(2, 0, 1)[None]
    with torch.no_grad():
        logits = torch.nn.functional.interpolate(net.eval()._forward(batch), size=image.shape[:2], mode="bilinear")
    return logits.argmax(1)[0].numpy()


@pytest.mark.parametrize(
    ("head", "backbone", "two_scales"),
    [
        # Exported by dgkit train segmenter in test_run.py too, and compared with its checkpoint.
        pytest.param("segformer", "mit_b0", False, marks=pytest.mark.slow),
        ("unet", "unet", False),
        pytest.param("daformer", "mit_b0", False, marks=pytest.mark.slow),
        pytest.param("daformer", "mit_b0", True, marks=pytest.mark.slow),
        pytest.param("deeplabv2", "resnet101", False, marks=pytest.mark.slow),
    ],
)
def test_file_and_network_agree(tmp_path, head, backbone, two_scales):
    torch.manual_seed(0)
    net = build_network(model_config(head, backbone, 64, two_scales=two_scales, channels=16))
    path = tmp_path / "segmenter.onnx"
    assert export_segmenter(net, path, 64) < 1e-4
    sidecar = yaml.safe_load(path.with_suffix(".yaml").read_text())
    assert sidecar["classes"][18] == "bicycle" and sidecar["mean"] == [0.485, 0.456, 0.406]
    image = np.random.default_rng(0).integers(0, 256, (64, 64 if two_scales else 96, 3), dtype=np.uint8)
    reader = open_onnx_segmenter(path)
    assert reader.fixed_size == ((64, 64) if two_scales else None)
    assert (reader.predict(image).label == predicted(net, image)).mean() > 0.99
