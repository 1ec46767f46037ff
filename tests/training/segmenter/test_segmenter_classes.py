"""Training a segmenter of other classes: sets, network, checkpoint and side-car."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

if importlib.util.find_spec("mmseg") is None:
    pytest.skip("needs mmsegmentation: pip install 'dgkit[seg]'", allow_module_level=True)

from dgkit.errors import InputError
from dgkit.files import digest_file
from dgkit.segmenters.opening import open_segmenter
from dgkit.taxonomies import CAMVID11, find_taxonomy
from dgkit.training.segmenter.mixture import SourceAndGenerated
from dgkit.training.segmenter.runner_config import runner_config
from dgkit.training.segmenter.segmenter_recipe import SegmenterRecipe
from dgkit.training.segmenter.segmenter_training import train_segmenter
from tests.test_taxonomies import YARD
from tests.training.segmenter.conftest import write_pair

pytestmark = pytest.mark.filterwarnings("default")  # mmengine, its use of torch's schedulers and TensorBoard warn


@pytest.fixture
def camvid(micro: dict, generated: Path) -> dict:
    """The micro recipe with generated images that state the classes of CamVid."""
    lines = [json.loads(line) for line in (generated / "manifest.jsonl").read_text().splitlines()]
    for line in lines:
        image, label = write_pair(generated, line["id"], np.full((64, 64), 10, np.uint8))
        line |= {"image_sha256": digest_file(image), "label_sha256": digest_file(label)}
    (generated / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (generated / "config.yaml").write_text("taxonomy: camvid11\n")
    return {**micro, "data": {**micro["data"], "taxonomy": "camvid11"}}


def changed(micro: dict, **data: object) -> SegmenterRecipe:
    return SegmenterRecipe.model_validate({**micro, "data": {**micro["data"], **data}})


def test_the_network_has_their_number(camvid: dict) -> None:
    config = runner_config(changed(camvid, val=camvid["data"]["source"]), Path("out"))
    assert config["model"]["decode_head"]["num_classes"] == 11
    assert config["val_dataloader"]["dataset"]["taxonomy"] == "camvid11"
    mixture = SourceAndGenerated(changed(camvid).data.model_dump(mode="json"), 0, 4)
    assert mixture.metainfo["classes"] == CAMVID11.names and mixture.metainfo["taxonomy"] == "camvid11"
    assert {sample.taxonomy for sample in (*mixture.source.samples, *mixture.generated)} == {CAMVID11}


@pytest.mark.slow
def test_the_side_car_and_the_checkpoint_state_them(camvid: dict, tmp_path: Path) -> None:
    result = train_segmenter(SegmenterRecipe.model_validate(camvid))
    sidecar = yaml.safe_load((tmp_path / "out" / "segmenter.yaml").read_text())
    assert sidecar["taxonomy"] == "camvid11" and sidecar["classes"] == list(CAMVID11.names)
    for path in (result["onnx"], result["checkpoint"]):
        assert open_segmenter(path).taxonomy is CAMVID11
        with pytest.raises(InputError, match="cannot be used with the classes of yard"):
            open_segmenter(path, taxonomy=find_taxonomy(YARD))


def test_mixed_sets_are_refused(micro: dict, camvid: dict, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="generated cannot be used with the classes of cityscapes19"):
        train_segmenter(changed(camvid, taxonomy=None))
    with pytest.raises(InputError, match="generated cannot be used with the classes of yard: yard has 3 classes"):
        train_segmenter(changed(camvid, taxonomy=YARD))
    assert not (tmp_path / "out").exists()


def test_things_of_the_feature_distance(camvid: dict) -> None:
    distance = {"feature_distance": {}, "pretrained": "x.pth"}
    terms = SegmenterRecipe.model_validate({**camvid, **distance}).terms
    assert terms["feature_distance"]["classes"] == list(CAMVID11.things)
    with pytest.raises(ValueError, match=r"classes \[12\] are not train ids; use 0 to 10"):
        SegmenterRecipe.model_validate({**camvid, **distance, "feature_distance": {"classes": [12]}})
