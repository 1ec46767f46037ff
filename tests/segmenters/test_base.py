"""Segmenters of every kind behind one call: transformers folders on the engines, foreign ONNX files."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.nn import functional

from dgkit.errors import EngineError, InputError, ModelError, UsageError
from dgkit.labels import CLASSES, NUM_CLASSES, PALETTE
from dgkit.segmenters.base import ModuleSegmenter
from dgkit.segmenters.opening import open_segmenter
from dgkit.segmenters.transformers import transformers_source
from tests.segformers import save_narrow_segformer
from tests.segmenters.onnx_files import label_model, palette_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_narrow_segformer(tmp_path_factory.mktemp("segformer"))


def pictures(height: int = 64, width: int = 96, count: int = 2) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, height, width), dtype=np.uint8))


def expected(folder: Path, images: torch.Tensor) -> torch.Tensor:
    from transformers import SegformerForSemanticSegmentation

    model = SegformerForSemanticSegmentation.from_pretrained(folder).eval()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.5, 0.4, 0.3), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        logits = model((images / 255 - mean) / std).logits[:, :NUM_CLASSES]
    return functional.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)


def test_a_transformers_folder(folder: Path) -> None:
    with open_segmenter(folder, device="cpu") as found:
        assert found.classes.tolist() == list(range(NUM_CLASSES))[::-1]
        for size in ((64, 96), (40, 72)):  # torch takes any size
            assert torch.allclose(found.logits(pictures(*size)), expected(folder, pictures(*size)), atol=1e-4)
        facts = found.facts()
    assert (facts["kind"], facts["engine"], facts["dtype"]) == ("transformers SegFormer", "torch", "fp32")
    assert len(facts["sha256"]) == 64


def test_the_digest_follows_the_weights(folder: Path, tmp_path: Path) -> None:
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
        found.logits(pictures())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ort", "openvino", "compile"])
def test_compiled_engines_say_the_same(folder: Path, engine: str) -> None:
    pytest.importorskip({"ort": "onnxruntime", "openvino": "openvino", "compile": "torch"}[engine])
    with open_segmenter(folder, engine, device="cpu", batch=4) as found:
        for images in (pictures(64, 64, 1), pictures(64, 64, 3)):
            assert torch.allclose(found.logits(images), expected(folder, images), atol=1e-3)


def test_a_compiled_engine_is_for_few_sizes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    found = open_segmenter(folder, "ort", device="cpu")
    assert isinstance(found, ModuleSegmenter)
    monkeypatch.setattr("dgkit.segmenters.base.MAX_SIZES", 0)
    with pytest.raises(EngineError, match="compiled anew for each image size"):
        found.logits(pictures())


def test_folders_that_are_none(folder: Path, tmp_path: Path) -> None:
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
        found.logits(pictures())
    with pytest.raises(UsageError, match="unknown engine 'tvm'"):
        open_segmenter(folder, "tvm")


def colours(height: int = 64, width: int = 96) -> tuple[np.ndarray, torch.Tensor]:
    """(train ids [H,W] in blocks of 8, their colours as a batch of two)."""
    ids = np.arange((height // 8) * (width // 8)).reshape(height // 8, width // 8) % NUM_CLASSES
    label = np.kron(ids, np.ones((8, 8), int)).astype(np.uint8)
    image = torch.from_numpy(PALETTE[label]).permute(2, 0, 1)
    return label, torch.stack([image, image.flip(-1)])


@pytest.mark.parametrize("engine", ["ort", "openvino"])
@pytest.mark.parametrize("make", [palette_model, label_model])
def test_an_onnx_file_with_logits_or_class_numbers(engine: str, make, tmp_path: Path) -> None:
    pytest.importorskip({"ort": "onnxruntime", "openvino": "openvino"}[engine])
    label, images = colours()
    with open_segmenter(make(tmp_path / "m.onnx"), engine, device="cpu") as found:
        result = found.logits(images)
        assert result.shape == (2, NUM_CLASSES, *label.shape)
        assert np.array_equal(result.argmax(1).numpy(), np.stack([label, label[:, ::-1]]))
        cut = found.logits(images[:, :, :61, :83])  # padded to multiples inside
        assert np.array_equal(cut[0].argmax(0).numpy(), label[:61, :83])


def test_logits_at_a_stride_are_enlarged_bilinearly(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    _, images = colours()
    path = palette_model(tmp_path / "m.onnx")
    strided = palette_model(tmp_path / "s.onnx", stride=4)
    with open_segmenter(path, device="cpu") as full, open_segmenter(strided, device="cpu") as coarse:
        small = full.logits(images)[..., ::4, ::4]
        wanted = functional.interpolate(small, size=images.shape[-2:], mode="bilinear", align_corners=False)
        assert torch.allclose(coarse.logits(images), wanted, atol=1e-5)


def test_a_fixed_size_is_padded_to_and_not_exceeded(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    label, images = colours()
    with open_segmenter(palette_model(tmp_path / "m.onnx", size=(64, 96)), device="cpu") as found:
        assert np.array_equal(found.logits(images[..., :40, :50])[0].argmax(0).numpy(), label[:40, :50])
        with pytest.raises(UsageError, match="takes images of 96x64; the protocol gives larger ones"):
            found.logits(torch.zeros(1, 3, 65, 96, dtype=torch.uint8))


def test_a_fixed_batch_is_filled(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    import onnx

    path = palette_model(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, path)
    label, images = colours()
    with open_segmenter(path, device="cpu") as found:
        result = found.logits(torch.cat([images, images[:1]])).argmax(1).numpy()
    assert np.array_equal(result, np.stack([label, label[:, ::-1], label]))


def test_names_in_the_side_car_choose_the_classes(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    label, images = colours()
    path = palette_model(tmp_path / "m.onnx")
    names = ["void" if name == "sky" else name for name in CLASSES]
    path.with_suffix(".yaml").write_text(yaml.safe_dump({"classes": names, "mean": [0] * 3, "std": [1] * 3}))
    with open_segmenter(path, device="cpu") as found:
        predicted = found.classes[found.logits(images)[0].argmax(0).numpy()]
    sky = label == CLASSES.index("sky")
    assert np.array_equal(predicted[~sky], label[~sky]) and not (predicted == CLASSES.index("sky")).any()
    path.with_suffix(".yaml").write_text(yaml.safe_dump({"classes": names[:5]}))
    with (
        open_segmenter(path, device="cpu") as short,
        pytest.raises(InputError, match="gives 19 classes, but 5 are named"),
    ):
        short.logits(images)


def test_onnx_files_that_do_not_fit(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = palette_model(tmp_path / "m.onnx")
    for engine, dtype in (("torch", "fp32"), ("trt", "fp32"), ("ort", "fp16")):
        with pytest.raises(UsageError, match="allowed: ort and openvino, in fp32"):
            open_segmenter(path, engine, dtype)
    with pytest.raises(InputError, match="no such file"):
        open_segmenter(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match="cannot be opened"):
        open_segmenter(tmp_path / "bad.onnx")
    path.with_suffix(".yaml").write_text(yaml.safe_dump({"classes": ["sofa"]}))
    with pytest.raises(InputError, match="names none of the 19 classes"):
        open_segmenter(path)
