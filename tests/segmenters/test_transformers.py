"""Transformers folders as segmenters on every engine, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from dgkit.errors import EngineError, ModelError, UsageError
from dgkit.labels import NUM_CLASSES
from dgkit.segmenters.base import ModuleSegmenter
from dgkit.segmenters.opening import open_segmenter
from dgkit.segmenters.transformers import transformers_source
from tests.segformers import save_narrow_segformer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_narrow_segformer(tmp_path_factory.mktemp("segformer"))


def images_of(height: int = 64, width: int = 96, count: int = 2) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, height, width), dtype=np.uint8))


def expected(folder: Path, images: torch.Tensor) -> torch.Tensor:
    from transformers import SegformerForSemanticSegmentation

    model = SegformerForSemanticSegmentation.from_pretrained(folder).eval()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.5, 0.4, 0.3), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        logits = model((images / 255 - mean) / std).logits[:, :NUM_CLASSES]
    return functional.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)


def test_logits_equal_those_of_transformers(folder: Path) -> None:
    with open_segmenter(folder, device="cpu") as found:
        assert found.classes.tolist() == list(range(NUM_CLASSES))[::-1]
        for size in ((64, 96), (40, 72)):  # torch takes any size
            assert torch.allclose(found.logits(images_of(*size)), expected(folder, images_of(*size)), atol=1e-4)
        facts = found.facts()
    assert (facts["kind"], facts["engine"], facts["dtype"]) == ("transformers SegFormer", "torch", "fp32")
    assert len(facts["sha256"]) == 64


def test_the_digest_depends_on_the_weights(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    weights = load_file(folder / "model.safetensors")
    next(value for value in weights.values() if value.ndim == 4)[0] += 1
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    assert transformers_source(tmp_path).digest != transformers_source(folder).digest


def test_a_backbone_alone_is_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    weights = {k: v for k, v in load_file(folder / "model.safetensors").items() if not k.startswith("decode_head")}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with (
        open_segmenter(tmp_path, device="cpu") as found,
        pytest.raises(ModelError, match=r"lacks [0-9]+ weights of the network"),
    ):
        found.logits(images_of())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ort", "openvino", "compile"])
def test_compiled_engines_give_the_same_logits(folder: Path, engine: str) -> None:
    pytest.importorskip({"ort": "onnxruntime", "openvino": "openvino", "compile": "torch"}[engine])
    with open_segmenter(folder, engine, device="cpu", batch=4) as found:
        for images in (images_of(64, 64, 1), images_of(64, 64, 3)):
            assert torch.allclose(found.logits(images), expected(folder, images), atol=1e-3)


def test_the_number_of_compiled_sizes_is_limited(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    found = open_segmenter(folder, "ort", device="cpu")
    assert isinstance(found, ModuleSegmenter)
    monkeypatch.setattr("dgkit.segmenters.base.MAX_SIZES", 0)
    with pytest.raises(EngineError, match="is compiled per image size; at most 0 sizes are allowed"):
        found.logits(images_of())


def test_refused_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not a segmenter; allowed: an \.onnx file, a checkpoint"):
        open_segmenter(tmp_path)
    config = tmp_path / "config.json"
    config.write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        open_segmenter(tmp_path)
    config.write_text('{"model_type": "vit"}')
    with pytest.raises(ModelError, match="holds a 'vit' model; allowed: 'segformer'"):
        open_segmenter(tmp_path)
    config.write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        open_segmenter(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    (tmp_path / "preprocessor_config.json").write_text('{"image_std": [1, 2]}')
    with pytest.raises(ModelError, match=r"\[1, 2\] is not a list of three numbers"):
        open_segmenter(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with open_segmenter(tmp_path, device="cpu") as found, pytest.raises(ModelError, match="cannot be read"):
        found.logits(images_of())
    with pytest.raises(UsageError, match="unknown engine 'tvm'"):
        open_segmenter(folder, "tvm")
