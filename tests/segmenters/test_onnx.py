"""Segmenters of any kind behind one interface: strides, label outputs, class names, fixed sizes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dgkit.errors import InputError, UsageError
from dgkit.labels import CLASSES, NUM_CLASSES, PALETTE
from dgkit.segmenters.onnx import open_onnx_segmenter
from dgkit.segmenters.style_classifier import StyleClassifier
from tests.segmenters.onnx_files import label_model, palette_model, style_model

pytest.importorskip("onnxruntime")


def blocks(height: int = 64, width: int = 96) -> np.ndarray:
    """Label of 8x8 blocks, every class present."""
    ids = np.arange((height // 8) * (width // 8)).reshape(height // 8, width // 8) % NUM_CLASSES
    return np.kron(ids, np.ones((8, 8), int)).astype(np.uint8)


def test_an_oracle_reads_its_own_colours_back(tmp_path: Path) -> None:
    label = blocks()
    found = open_onnx_segmenter(palette_model(tmp_path / "s.onnx")).predict(PALETTE[label])
    assert np.array_equal(found.label, label)
    assert found.features is not None and found.features.shape == (NUM_CLASSES,)


def test_pictures_of_any_size_are_padded_and_cut(tmp_path: Path) -> None:
    label = blocks()[:61, :83]
    model = palette_model(tmp_path / "s.onnx", multiple_of=32)
    assert np.array_equal(open_onnx_segmenter(model).predict(PALETTE[label]).label, label)


def test_logits_at_a_stride_are_enlarged(tmp_path: Path) -> None:
    label = np.repeat(np.repeat(blocks(16, 24), 4, 0), 4, 1)
    found = open_onnx_segmenter(palette_model(tmp_path / "s.onnx", stride=4)).predict(PALETTE[label]).label
    assert found.shape == label.shape
    assert (found == label).mean() > 0.8


def test_logits_have_the_size_of_the_picture(tmp_path: Path) -> None:
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
def test_files_that_eval_takes(tmp_path: Path, options: dict[str, Any]) -> None:
    """Half precision, a fixed batch and one fixed side serve single images as well as batches."""
    label = blocks()[:, :83]
    segmenter = open_onnx_segmenter(palette_model(tmp_path / "s.onnx", **options))
    logits = segmenter.image_logits(PALETTE[label])
    assert logits.dtype == np.float32 and logits.shape == (NUM_CLASSES, *label.shape)
    assert np.array_equal(logits.argmax(0), label) and np.array_equal(segmenter.predict(PALETTE[label]).label, label)
    batch = torch.from_numpy(PALETTE[label]).permute(2, 0, 1)[None].repeat(5, 1, 1, 1)
    found = segmenter.logits(batch).argmax(1).numpy()
    assert found.shape == (5, *label.shape) and (found == label).all()


def test_a_fixed_size_is_met_by_resizing(tmp_path: Path) -> None:
    label = np.zeros((50, 70), np.uint8)
    label[:, 35:] = 10
    found = open_onnx_segmenter(palette_model(tmp_path / "s.onnx", size=(32, 64))).predict(PALETTE[label]).label
    assert found.shape == (50, 70)
    assert (found == label).mean() > 0.95


def test_outputs_may_be_labels(tmp_path: Path) -> None:
    found = open_onnx_segmenter(label_model(tmp_path / "l.onnx")).predict(PALETTE[blocks()])
    assert np.array_equal(found.label, blocks())
    assert found.features is None


def test_names_in_the_side_car_reorder_the_classes(tmp_path: Path) -> None:
    model = label_model(tmp_path / "l.onnx")
    model.with_suffix(".yaml").write_text(
        yaml.safe_dump({"classes": list(CLASSES[::-1]), "mean": [0] * 3, "std": [1] * 3})
    )
    assert np.array_equal(open_onnx_segmenter(model).predict(PALETTE[blocks()]).label, NUM_CLASSES - 1 - blocks())


def test_channels_of_other_classes_never_win(tmp_path: Path) -> None:
    model = palette_model(tmp_path / "s.onnx")
    names = ["something else" if name == "car" else name for name in CLASSES]
    model.with_suffix(".yaml").write_text(yaml.safe_dump({"classes": names, "mean": [0] * 3, "std": [1] * 3}))
    car = CLASSES.index("car")
    segmenter = open_onnx_segmenter(model)
    found = segmenter.predict(PALETTE[np.full((32, 32), car, np.uint8)]).label
    assert not (found == car).any() and found.max() < NUM_CLASSES
    logits = segmenter.image_logits(PALETTE[np.full((32, 32), car, np.uint8)])
    assert logits.shape == (NUM_CLASSES - 1, 32, 32) and car not in segmenter.classes


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file") as caught:
        open_onnx_segmenter(tmp_path / "none.onnx")
    assert "dgkit train judge" in caught.value.hint
    model = palette_model(tmp_path / "s.onnx")
    model.with_suffix(".yaml").write_text("features: nothing\n")
    with pytest.raises(InputError, match="names the output 'nothing'"):
        open_onnx_segmenter(model)
    model.with_suffix(".yaml").write_text("median: 3\n")
    with pytest.raises(UsageError, match="median"):
        open_onnx_segmenter(model)
    model.with_suffix(".yaml").write_text("classes: [road, sky]\n")
    with pytest.raises(InputError, match="gives 19 classes, but 2 are named"):
        open_onnx_segmenter(model).predict(PALETTE[blocks()])
    with pytest.raises(InputError, match="names unknown styles: road, sky"):
        StyleClassifier(model)


def test_styles_are_read_from_the_middle_square(tmp_path: Path) -> None:
    model = StyleClassifier(style_model(tmp_path / "c.onnx"))
    image = np.zeros((40, 80, 3), np.uint8)
    assert model.predict(image) == "night"
    image[:, 20:60] = 255
    assert model.predict(image) == "snowy"
