"""ONNX files as style classifiers."""

from pathlib import Path

import numpy as np
import pytest

from dgkit.errors import InputError
from dgkit.segmenters.style_classifier import StyleClassifier
from tests.segmenters.onnx_files import style_model

pytest.importorskip("onnxruntime")


def test_the_style_of_the_centre_square(tmp_path: Path) -> None:
    model = StyleClassifier(style_model(tmp_path / "c.onnx"))
    image = np.zeros((40, 80, 3), np.uint8)
    assert model.predict(image) == "night"
    image[:, 20:60] = 255
    assert model.predict(image) == "snowy"


def test_refused_side_cars(tmp_path: Path) -> None:
    model = style_model(tmp_path / "c.onnx")
    model.with_suffix(".yaml").write_text("classes: [road, sky]\n")
    with pytest.raises(InputError, match="names unknown styles: road, sky"):
        StyleClassifier(model)
    model.with_suffix(".yaml").write_text(f"classes: [{'x' * 100_000}]\n")
    with pytest.raises(InputError, match="names unknown styles") as caught:
        StyleClassifier(model)
    assert len(caught.value.message) < 1000
    model.with_suffix(".yaml").write_text("classes: [night, snowy]\n")
    with pytest.raises(InputError, match="has 6 outputs but names 2 styles"):
        StyleClassifier(model).predict(np.zeros((8, 8, 3), np.uint8))
