"""Segmenters of other classes: side-cars that state them, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from dgkit.errors import InputError
from dgkit.segmenters.class_names import match_classes
from dgkit.segmenters.onnx import open_onnx_segmenter
from dgkit.segmenters.opening import open_segmenter
from dgkit.segmenters.segmenter_sidecar import read_segmenter_sidecar
from dgkit.taxonomies import CAMVID11, CITYSCAPES19, find_taxonomy
from tests.segmenters.onnx_files import palette_model
from tests.test_taxonomies import YARD

pytest.importorskip("onnxruntime")
LABEL = np.arange(11, dtype=np.uint8).repeat(3)[None].repeat(32, 0)


def test_the_side_car_states_the_classes(tmp_path: Path) -> None:
    path = palette_model(tmp_path / "s.onnx", taxonomy=CAMVID11)
    for segmenter in (open_onnx_segmenter(path), open_onnx_segmenter(path, CAMVID11), open_segmenter(path)):
        assert segmenter.taxonomy is CAMVID11 and segmenter.classes.tolist() == list(range(11))
        assert segmenter.notes == ()
    assert (open_onnx_segmenter(path).predict(CAMVID11.colours[LABEL]).label == LABEL).all()


def test_a_segmenter_of_other_classes_is_refused(tmp_path: Path) -> None:
    camvid, city = palette_model(tmp_path / "c.onnx", taxonomy=CAMVID11), palette_model(tmp_path / "d.onnx")
    with pytest.raises(InputError, match=r"c\.yaml cannot be used with the classes of cityscapes19: .*only camvid11"):
        open_onnx_segmenter(camvid, CITYSCAPES19)
    with pytest.raises(InputError, match=r"d\.yaml cannot be used with the classes of camvid11: .*only cityscapes19"):
        open_onnx_segmenter(city, CAMVID11)
    with pytest.raises(InputError, match="with the classes of yard"):
        open_segmenter(camvid, taxonomy=find_taxonomy(YARD))


def test_classes_by_name_without_a_statement(tmp_path: Path) -> None:
    path = palette_model(tmp_path / "s.onnx", taxonomy=CAMVID11, states=False)
    assert open_onnx_segmenter(path, CAMVID11).notes == ()
    lenient = open_onnx_segmenter(path)  # as before: the classes that have the names of Cityscapes
    assert lenient.taxonomy is CITYSCAPES19 and len(lenient.classes) == 6
    with pytest.raises(InputError, match="names none of the 3 classes"):
        match_classes(("a", "b"), path, find_taxonomy(YARD))


def test_scores_of_earlier_versions_have_no_such_key(tmp_path: Path) -> None:
    assert "taxonomy" not in read_segmenter_sidecar(palette_model(tmp_path / "s.onnx")).to_json()
    path = palette_model(tmp_path / "t.onnx", taxonomy=CAMVID11)
    assert read_segmenter_sidecar(path).to_json()["taxonomy"] == "camvid11"
    values = yaml.safe_load(path.with_suffix(".yaml").read_text())
    path.with_suffix(".yaml").write_text(yaml.safe_dump({**values, "taxonomy": {"name": "x"}}))
    with pytest.raises(InputError, match="taxonomy 'x' has no list 'classes'"):
        open_onnx_segmenter(path)
