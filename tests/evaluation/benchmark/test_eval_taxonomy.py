"""``dgkit eval``, ``filter``, ``quality`` and ``report`` on label maps of other classes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgkit.cli.app import main
from dgkit.data.labelmap import read_label
from dgkit.taxonomies import CAMVID11
from tests.generated import make_generated
from tests.segmenters.onnx_files import palette_model

pytest.importorskip("onnxruntime")
SMALL = ["--set", "scale=[96,72]", "--set", "crop=64", "--set", "stride=48"]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return palette_model(tmp_path_factory.mktemp("net") / "camvid.onnx", taxonomy=CAMVID11)


@pytest.fixture(scope="module")
def camvid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images in the colours of their classes, with the ids of CamVid, 11 for void."""
    root = tmp_path_factory.mktemp("camvid")
    rng = np.random.default_rng(0)
    for number in range(2):
        label = rng.integers(0, 12, (6, 8)).astype(np.uint8).repeat(12, 0).repeat(12, 1)
        for folder, array in (("val", CAMVID11.colours[label]), ("valannot", label)):
            (root / folder).mkdir(exist_ok=True)
            Image.fromarray(array).save(root / folder / f"{number}.png")
    return root


def test_scores_by_class(net: Path, camvid: Path, tmp_path: Path) -> None:
    arguments = ["eval", str(net), "--on", f"camvid={camvid}", *SMALL]
    assert main([*arguments, "--out", str(tmp_path / "e"), "--save-predictions", str(tmp_path / "p")]) == 0
    found = json.loads((tmp_path / "e" / "report.json").read_text())
    scores = found["sets"]["camvid"]
    assert found["taxonomy"] == "camvid11" and scores["miou"] == 1.0
    assert list(scores["iou"]) == list(CAMVID11.names) and np.array(scores["confusion"]).shape == (11, 11)
    header = (tmp_path / "e" / "report.csv").read_text().splitlines()[0].split(",")
    assert header[4:15] == list(CAMVID11.names)
    predicted = read_label(tmp_path / "p" / "camvid" / "0.png", taxonomy=CAMVID11)
    label = read_label(camvid / "valannot" / "0.png", "camvid", CAMVID11)
    assert (predicted == label)[label != 255].all()
    assert "pedestrian" in (tmp_path / "e" / "index.html").read_text()
    assert main([*arguments, "--out", str(tmp_path / "e")]) == 0  # resumes


def test_other_classes_are_refused(net: Path, camvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    city = palette_model(tmp_path / "city.onnx")
    arguments = ["--on", f"camvid={camvid}", "--out", str(tmp_path / "e"), *SMALL]
    assert main(["eval", str(city), *arguments, "--taxonomy", "camvid11"]) == 1
    assert "cannot be used with the classes of camvid11" in capsys.readouterr().err
    assert main(["eval", str(net), *arguments, "--taxonomy", "cityscapes19"]) == 1
    assert "cannot be used with the classes of cityscapes19" in capsys.readouterr().err
    assert not (tmp_path / "e").exists()


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A generated folder whose labels are classes of CamVid."""
    return make_generated(tmp_path / "out", 3, taxonomy=CAMVID11)


def test_filter(net: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["filter", str(scenes), "--segmenter", str(net), "--threshold", "3", "--boundary", "1"]) == 0
    found = json.loads((scenes / "labels_filtered" / "filter.json").read_text())
    assert list(found["classes"]) == list(CAMVID11.names)
    city = palette_model(tmp_path / "city.onnx")
    assert main(["filter", str(scenes), "--segmenter", str(city)]) == 1
    assert "cannot be used with the classes of camvid11" in capsys.readouterr().err


def test_quality(net: Path, scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quality", str(scenes), "--segmenter", str(net), "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["agreement"]["iou"]) == list(CAMVID11.names)
    assert main(["quality", str(scenes), "--segmenter", str(net), "--reference", "prior"]) == 1
    assert "the renders of reference 'prior' cannot be used" in capsys.readouterr().err


def test_report_and_card(scenes: Path) -> None:
    assert main(["report", str(scenes)]) == 0
    facts = json.loads((scenes / "dataset.json").read_text())
    assert facts["taxonomy"] == "camvid11" and [row["name"] for row in facts["classes"]] == list(CAMVID11.names)
    assert "Labels are the 11 classes of camvid11 as train ids" in (scenes / "README.md").read_text()
    snippet = next(scenes.glob("*mmseg*")).read_text()
    assert "'pavement'" in snippet and str(list(map(int, CAMVID11.palette[4]))) in snippet
    page = (scenes / "report.html").read_text()
    assert '"pavement"' in page and '"rider"' not in page
