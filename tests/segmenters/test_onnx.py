"""ONNX files as segmenters of single images and of batches: strides, class numbers, names, fixed sizes."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from torch.nn import functional

from dgkit.errors import EngineError, InputError, UsageError
from dgkit.labels import CLASSES, NUM_CLASSES, PALETTE
from dgkit.segmenters.onnx import open_onnx_segmenter
from dgkit.segmenters.opening import open_segmenter
from tests.segmenters.onnx_files import label_model, palette_model

pytest.importorskip("onnxruntime")


def blocks(height: int = 64, width: int = 96) -> np.ndarray:
    """Return a label map [H,W] of 8x8 blocks with every class."""
    ids = np.arange((height // 8) * (width // 8)).reshape(height // 8, width // 8) % NUM_CLASSES
    return np.kron(ids, np.ones((8, 8), int)).astype(np.uint8)


def colours(height: int = 64, width: int = 96) -> tuple[np.ndarray, torch.Tensor]:
    """Return :func:`blocks` and a batch of two images in its colours, the second mirrored."""
    label = blocks(height, width)
    image = torch.from_numpy(PALETTE[label]).permute(2, 0, 1)
    return label, torch.stack([image, image.flip(-1)])


# Single images, as dgkit quality, filter and the judge of generate use them


def test_predict_recognises_the_palette(tmp_path: Path) -> None:
    label = blocks()
    found = open_onnx_segmenter(palette_model(tmp_path / "s.onnx")).predict(PALETTE[label])
    assert np.array_equal(found.label, label)
    assert found.features is not None and found.features.shape == (NUM_CLASSES,)


def test_images_of_any_size_are_padded_and_cropped(tmp_path: Path) -> None:
    label = blocks()[:61, :83]
    model = palette_model(tmp_path / "s.onnx", multiple_of=32)
    assert np.array_equal(open_onnx_segmenter(model).predict(PALETTE[label]).label, label)


def test_strided_logits_are_upsampled(tmp_path: Path) -> None:
    label = np.repeat(np.repeat(blocks(16, 24), 4, 0), 4, 1)
    found = open_onnx_segmenter(palette_model(tmp_path / "s.onnx", stride=4)).predict(PALETTE[label]).label
    assert found.shape == label.shape
    assert (found == label).mean() > 0.8


def test_image_logits_have_the_size_of_the_image(tmp_path: Path) -> None:
    label = blocks()[:61, :83]
    for options in ({}, {"stride": 4}, {"size": (64, 96)}):
        segmenter = open_onnx_segmenter(palette_model(tmp_path / "s.onnx", **options))
        logits, ids = segmenter.image_logits(PALETTE[label]), segmenter.classes
        assert logits.shape == (NUM_CLASSES, 61, 83) and logits.dtype == np.float32
        assert np.array_equal(ids, np.arange(NUM_CLASSES))
        assert (ids[logits.argmax(0)] == label).mean() > (0.55 if options else 0.999)
    with pytest.raises(InputError, match="gives class numbers, but logits are needed"):
        open_onnx_segmenter(label_model(tmp_path / "l.onnx")).image_logits(PALETTE[label])


@pytest.mark.parametrize("options", [{"half": True}, {"batch": 4}, {"size": (64, None)}])
def test_half_precision_fixed_batch_and_one_fixed_side(tmp_path: Path, options: dict[str, Any]) -> None:
    label = blocks()[:, :83]
    segmenter = open_onnx_segmenter(palette_model(tmp_path / "s.onnx", **options))
    logits = segmenter.image_logits(PALETTE[label])
    assert logits.dtype == np.float32 and logits.shape == (NUM_CLASSES, *label.shape)
    assert np.array_equal(logits.argmax(0), label) and np.array_equal(segmenter.predict(PALETTE[label]).label, label)
    batch = torch.from_numpy(PALETTE[label]).permute(2, 0, 1)[None].repeat(5, 1, 1, 1)
    found = segmenter.logits(batch).argmax(1).numpy()
    assert found.shape == (5, *label.shape) and (found == label).all()


def test_images_are_resized_to_a_fixed_size(tmp_path: Path) -> None:
    label = np.zeros((50, 70), np.uint8)
    label[:, 35:] = 10
    found = open_onnx_segmenter(palette_model(tmp_path / "s.onnx", size=(32, 64))).predict(PALETTE[label]).label
    assert found.shape == (50, 70)
    assert (found == label).mean() > 0.95


def test_outputs_may_be_class_numbers(tmp_path: Path) -> None:
    found = open_onnx_segmenter(label_model(tmp_path / "l.onnx")).predict(PALETTE[blocks()])
    assert np.array_equal(found.label, blocks())
    assert found.features is None


def test_names_in_the_side_car_reorder_the_classes(tmp_path: Path) -> None:
    model = label_model(tmp_path / "l.onnx")
    model.with_suffix(".yaml").write_text(
        yaml.safe_dump({"classes": list(CLASSES[::-1]), "mean": [0] * 3, "std": [1] * 3})
    )
    assert np.array_equal(open_onnx_segmenter(model).predict(PALETTE[blocks()]).label, NUM_CLASSES - 1 - blocks())


def test_channels_of_unknown_classes_are_ignored(tmp_path: Path) -> None:
    model = palette_model(tmp_path / "s.onnx")
    names = ["something else" if name == "car" else name for name in CLASSES]
    model.with_suffix(".yaml").write_text(yaml.safe_dump({"classes": names, "mean": [0] * 3, "std": [1] * 3}))
    car = CLASSES.index("car")
    segmenter = open_onnx_segmenter(model)
    found = segmenter.predict(PALETTE[np.full((32, 32), car, np.uint8)]).label
    assert not (found == car).any() and found.max() < NUM_CLASSES
    logits = segmenter.image_logits(PALETTE[np.full((32, 32), car, np.uint8)])
    assert logits.shape == (NUM_CLASSES - 1, 32, 32) and car not in segmenter.classes


def test_refused_files_for_single_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file") as caught:
        open_onnx_segmenter(tmp_path / "none.onnx")
    assert "dgkit train segmenter" in caught.value.hint
    model = palette_model(tmp_path / "s.onnx")
    model.with_suffix(".yaml").write_text("features: nothing\n")
    with pytest.raises(InputError, match="names the output 'nothing'"):
        open_onnx_segmenter(model)
    model.with_suffix(".yaml").write_text("median: 3\n")
    with pytest.raises(UsageError, match="median"):
        open_onnx_segmenter(model)
    model.with_suffix(".yaml").write_text("classes: [road, sky]\n")
    with pytest.raises(InputError, match="gives 19 classes, but names 2"):
        open_onnx_segmenter(model).predict(PALETTE[blocks()])


# Batches of windows, as dgkit eval uses them


@pytest.mark.parametrize("engine", ["ort", "openvino"])
@pytest.mark.parametrize("make", [palette_model, label_model])
def test_batches_with_logits_or_class_numbers(engine: str, make, tmp_path: Path) -> None:
    pytest.importorskip({"ort": "onnxruntime", "openvino": "openvino"}[engine])
    label, images = colours()
    with open_segmenter(make(tmp_path / "m.onnx"), engine, device="cpu") as found:
        result = found.logits(images)
        assert result.shape == (2, NUM_CLASSES, *label.shape)
        assert np.array_equal(result.argmax(1).numpy(), np.stack([label, label[:, ::-1]]))
        cut = found.logits(images[:, :, :61, :83])  # padded inside
        assert np.array_equal(cut[0].argmax(0).numpy(), label[:61, :83])


def test_strided_logits_of_batches_are_upsampled_bilinearly(tmp_path: Path) -> None:
    _, images = colours()
    path = palette_model(tmp_path / "m.onnx")
    strided = palette_model(tmp_path / "s.onnx", stride=4)
    with open_segmenter(path, device="cpu") as full, open_segmenter(strided, device="cpu") as coarse:
        small = full.logits(images)[..., ::4, ::4]
        wanted = functional.interpolate(small, size=images.shape[-2:], mode="bilinear", align_corners=False)
        assert torch.allclose(coarse.logits(images), wanted, atol=1e-5)


def test_windows_are_padded_to_a_fixed_size(tmp_path: Path) -> None:
    label, images = colours()
    with open_segmenter(palette_model(tmp_path / "m.onnx", size=(64, 96)), device="cpu") as found:
        assert np.array_equal(found.logits(images[..., :40, :50])[0].argmax(0).numpy(), label[:40, :50])
        with pytest.raises(UsageError, match="takes images of 96x64; the protocol gives larger ones"):
            found.logits(torch.zeros(1, 3, 65, 96, dtype=torch.uint8))


def test_a_fixed_batch_is_filled_up(tmp_path: Path) -> None:
    import onnx

    path = palette_model(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, path)
    label, images = colours()
    with open_segmenter(path, device="cpu") as found:
        result = found.logits(torch.cat([images, images[:1]])).argmax(1).numpy()
    assert np.array_equal(result, np.stack([label, label[:, ::-1], label]))


def test_names_in_the_side_car_select_the_classes(tmp_path: Path) -> None:
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
        pytest.raises(InputError, match="gives 19 classes, but names 5"),
    ):
        short.logits(images)


def test_refused_files_for_batches(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("engine", ["ort", "openvino"])
def test_names_that_are_not_utf8_are_refused(engine: str, tmp_path: Path) -> None:
    path = palette_model(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes().replace(b"logits", b"\xffogits"))
    with pytest.raises(EngineError, match="cannot be opened"):
        open_segmenter(path, engine, device="cpu")


def test_features_of_one_number_are_refused(tmp_path: Path) -> None:
    path = palette_model(tmp_path / "m.onnx")
    model = onnx.load(path)
    del model.graph.output[1].type.tensor_type.shape.dim[:]
    del model.graph.node[1].input[1]  # without axes, the mean is one number
    onnx.save(model, path)
    with open_onnx_segmenter(path) as segmenter, pytest.raises(InputError, match="features is one number"):
        segmenter.predict(PALETTE[blocks()])
