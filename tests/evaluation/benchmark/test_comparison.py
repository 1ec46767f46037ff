"""``dgkit eval`` with several segmenters: the same pictures, folders, differences, pages, and what is refused."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dgkit.cli.app import main
from dgkit.config import load_config
from dgkit.errors import InputError, OutputError, UsageError
from dgkit.evaluation.benchmark.comparison import compare
from dgkit.evaluation.benchmark.eval_config import EvalConfig
from dgkit.evaluation.benchmark.evaluate import evaluate
from dgkit.evaluation.benchmark.segmenter_names import name_segmenters
from dgkit.segmenters.onnx import OnnxSegmenter
from dgkit.taxonomies import find_taxonomy
from dgkit.world.write import write_role
from tests.browsers import chromium
from tests.segmenters.onnx_files import palette_model

pytest.importorskip("onnxruntime")
SMALL = {"scale": (96, 48), "crop": 32, "stride": 24, "worst": 2}
ROLES = {"cityscapes": 10, "bdd": 10, "mapillary": 10, "acdc": 4}


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("compared")
    for role, count in ROLES.items():
        write_role(root / role, role, count, 5, height=48, width=96, split="val", workers=1)
    palette_model(root / "fine.onnx")
    palette_model(root / "coarse.onnx", stride=4)
    return root


def opened(city: Path, *names: str) -> dict[str, Any]:
    return {name: OnnxSegmenter(city / f"{name.partition('-')[0]}.onnx", "ort", "fp32", "cpu") for name in names}


def make_config(city: Path, roles: tuple[str, ...], **values: Any) -> EvalConfig:
    return load_config(EvalConfig, on=tuple(f"{role}={city / role}" for role in roles), **{**SMALL, **values})


@pytest.fixture(scope="module")
def compared(city: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """(folder, report) of three segmenters, two of them equal, on four data sets."""
    out = tmp_path_factory.mktemp("compared-out") / "out"
    config = make_config(city, tuple(ROLES), resamples=1000, metrics="accuracy")
    return out, compare(opened(city, "fine", "fine-again", "coarse"), config, out)


def test_each_segmenter_has_the_folder_of_an_evaluation_of_its_own(city: Path, compared, tmp_path: Path) -> None:
    out, result = compared
    config = make_config(city, tuple(ROLES), resamples=1000, metrics="accuracy")
    alone = evaluate(*opened(city, "coarse").values(), config, tmp_path / "alone")
    for name in ("report.csv", "images.csv", "index.html", "config.yaml", "confusion-acdc.png"):
        assert (out / "segmenters" / "coarse" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    for name, scores in alone["sets"].items():
        found = result["groups"][name]["scores"]["coarse"]
        assert {key: found[key] for key in ("miou", "iou", "mean_accuracy")} == {
            key: scores[key] for key in ("miou", "iou", "mean_accuracy")
        }


def test_the_report_of_a_comparison(compared) -> None:
    out, result = compared
    assert json.loads((out / "report.json").read_text()) == result
    assert result["reference"] == "fine" and [*result["segmenters"]] == ["fine", "fine-again", "coarse"]
    acdc = [f"acdc {condition}" for condition in ("fog", "night", "rain", "snow")]
    assert [*result["groups"]] == ["cityscapes", "bdd100k", "mapillary", "acdc", *acdc, "Avg3"]
    for group in result["groups"].values():
        scores, differences = group["scores"], group["differences"]
        assert [*differences] == ["fine-again", "coarse"]
        gain = scores["coarse"]["miou"] - scores["fine"]["miou"]
        assert differences["coarse"]["miou"]["difference"] == pytest.approx(gain)
        assert differences["fine-again"]["miou"]["difference"] == 0
    same = result["groups"]["cityscapes"]["differences"]["fine-again"]["miou"]
    assert (same["low"], same["high"], same["p"]) == (0, 0, 1)
    coarse = result["groups"]["Avg3"]["differences"]["coarse"]
    assert coarse["miou"]["low"] < coarse["miou"]["high"] and coarse["iou"] == {}
    few = result["groups"]["acdc"]["differences"]["coarse"]  # four pictures
    assert few["miou"]["p"] is None and few["iou"]["road"]["low"] is None
    rows = list(csv.DictReader((out / "report.csv").read_text().splitlines()))
    assert len(rows) == 3 * len(result["groups"]) and rows[0]["difference"] == "" and rows[1]["p"] == "1.0000"
    assert rows[0]["mean accuracy"]


def test_pictures_that_differ_most_come_first(compared) -> None:
    out, _ = compared
    rows = list(csv.DictReader((out / "images.csv").read_text().splitlines()))
    assert len(rows) == sum(ROLES.values())
    spreads = [abs(float(row["fine"]) - float(row["coarse"])) for row in rows if row["set"] == "cityscapes"]
    assert spreads == sorted(spreads, reverse=True)
    page = (out / "index.html").read_text()
    assert page.count("<figure>") == 2 * len(ROLES) and page.index(rows[0]["id"]) < page.index(rows[1]["id"])
    sources = re.findall(r'src="([^"]{5})', page)
    assert len(sources) == 2 * len(ROLES) * 2 * 4 and set(sources) == {"data:"}
    assert " href=" not in page and "://" not in page


def test_a_comparison_resumes_and_takes_more_segmenters(city: Path, tmp_path: Path) -> None:
    config, out, seen = make_config(city, ("bdd",), resamples=1000, worst=0), tmp_path / "out", list[tuple]()

    def progress(stage: str, done: float, total: float, note: str = "") -> None:
        seen.append((stage, done, total))
        if (stage, done) == ("score", 13):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(opened(city, "fine", "coarse"), config, out, progress)
    assert ("score", 10, 20) in seen and not (out / "report.json").exists()
    result = compare(opened(city, "fine", "coarse"), config, out)
    assert result["runs"]["fine"]["continued"] == 10 and 3 <= result["runs"]["coarse"]["continued"] < 10
    assert compare(opened(city, "fine", "coarse"), config, tmp_path / "whole")["groups"] == result["groups"]
    more = compare(opened(city, "coarse", "fine", "fine-again"), config, out)
    assert more["runs"]["coarse"]["scored"] == 0 and more["reference"] == "coarse"
    other = compare(opened(city, "coarse", "fine"), config.model_copy(update={"seed": 1}), out)
    assert other["groups"] != more["groups"] and other["runs"]["fine"]["scored"] == 0


def test_predictions_of_each_segmenter_have_a_folder(city: Path, tmp_path: Path) -> None:
    config = make_config(city, ("bdd",), worst=0, save_predictions=tmp_path / "p")
    compare(opened(city, "fine", "coarse"), config, tmp_path / "out")
    assert len([*tmp_path.glob("p/*/bdd100k/*.png")]) == 20


def test_what_cannot_be_compared(city: Path, tmp_path: Path) -> None:
    config = make_config(city, ("bdd",))
    camvid = find_taxonomy("camvid11")
    palette_model(tmp_path / "other.onnx", taxonomy=camvid)
    other = {"other": OnnxSegmenter(tmp_path / "other.onnx", "ort", "fp32", "cpu")}
    with pytest.raises(InputError, match="the segmenter other cannot be used with the classes of cityscapes19"):
        compare({**opened(city, "fine"), **other}, config, tmp_path / "out")
    evaluate(*opened(city, "fine").values(), config, tmp_path / "single")
    with pytest.raises(OutputError, match="holds other files than a comparison"):
        compare(opened(city, "fine", "coarse"), config, tmp_path / "single")
    compare(opened(city, "fine", "coarse"), config, tmp_path / "both")
    with pytest.raises(OutputError, match="holds other files"):
        evaluate(*opened(city, "fine").values(), config, tmp_path / "both")


def test_pictures_that_change_during_a_run_are_noticed(city: Path, tmp_path: Path) -> None:
    shutil.copytree(city / "bdd", tmp_path / "bdd")
    picture = min(tmp_path.glob("bdd/**/images/**/*.jpg"))
    config = make_config(tmp_path, ("bdd",), strict=False, worst=0)

    def progress(stage: str, done: float, total: float, note: str = "") -> None:
        if (stage, done) == ("score", 10):  # the first segmenter has scored all
            picture.write_bytes(b"damaged")

    with pytest.raises(InputError, match=r"bdd100k changed during the run: .* was not scored by both fine and coarse"):
        compare(opened(city, "fine", "coarse"), config, tmp_path / "out", progress)


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = name_segmenters(["a/net.onnx", "base=b/net.onnx", "runs/iter_10.pth", "folder/b5/"])
    assert {name: str(path) for name, path in found.items()} == {
        "net": "a/net.onnx", "base": "b/net.onnx", "iter_10": "runs/iter_10.pth", "b5": "folder/b5"
    }  # fmt: skip
    (tmp_path / "x=y.onnx").touch()
    with pytest.raises(UsageError, match="cannot be the name of a segmenter") as caught:
        name_segmenters(["x=y.onnx"])
    assert caught.value.hint == "name it: A='x=y.onnx'"
    assert name_segmenters(["A=x=y.onnx"]) == {"A": Path("x=y.onnx")}
    with pytest.raises(UsageError, match=r"two segmenters are named net: a/net\.onnx and b/net\.onnx") as caught:
        name_segmenters(["a/net.onnx", "b/net.onnx"])
    assert caught.value.hint == "name them: net-1=a/net.onnx net-2=b/net.onnx"


def test_the_command(city: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = ["--set", "scale=[96,48]", "--set", "crop=32", "--worst", "1"]
    on = ["--on", f"bdd={city / 'bdd'}", "--out", str(tmp_path / "out"), *sets]
    pair = ["eval", str(city / "fine.onnx"), f"rough={city / 'coarse.onnx'}", *on]
    assert main(pair) == 0
    shown = capsys.readouterr()
    assert "differences to fine" in shown.out and "95 % interval" in shown.out and "rough" in shown.out
    assert "sidewalk" in shown.out and "index.html" in shown.err.replace("\n", "")
    assert main([*pair, "--json", "--classes", "present", "--seed", "3", "--resamples", "1500"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["bootstrap"]["resamples"] == 1500 and result["config"]["seed"] == 3
    assert result["groups"]["bdd100k"]["scores"]["rough"]["classes"] <= 19
    for words, message in (
        ([*pair[:2], *pair[1:]], "two segmenters are named fine"),
        ([*pair, "--config", "net.py"], "cannot be combined with 2 segmenters"),
        ([*pair, "--resamples", "10"], "resamples=10 is not allowed"),
        ([pair[0], pair[1], *pair[3:], "--seed", "3"], "--seed is for several segmenters"),
        ([*pair, "--metrics", "boundaries"], "unknown metric 'boundaries'"),
        ([pair[0], pair[1], f"gone={tmp_path / 'gone.onnx'}", *pair[3:]], "no such file"),
    ):
        assert main(words) == 2 or "no such file" in message
        assert message in " ".join(capsys.readouterr().err.split())
    assert main([*pair, "--metrics", "conditions"]) == 1
    assert "no data set states conditions: bdd100k" in capsys.readouterr().err


def test_the_page_in_a_browser(compared) -> None:
    """Pictures are decoded, none is wider than its column, and a phone scrolls inside the cards alone."""
    out, _ = compared
    with chromium() as browser:
        for width in (1280, 390):
            page = browser.new_page(viewport={"width": width, "height": 900}, offline=True)
            page.goto((out / "index.html").as_uri())
            sizes = page.eval_on_selector_all(
                ".cards img", "all => all.map(one => [one.naturalWidth, one.width, one.parentElement.clientWidth])"
            )
            assert len(sizes) == 2 * len(ROLES) * 8 and all(own and shown <= column for own, shown, column in sizes)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.close()


def test_maps_of_errors_and_changes() -> None:
    from dgkit.evaluation.benchmark.comparison_strip import GAINED, LOST, RIGHT, STILL_WRONG, change_map, error_map

    label = np.array([[0, 0, 0, 0, 255]], np.uint8)
    first = np.array([[0, 1, 0, 1, 0]], np.uint8)
    other = np.array([[0, 0, 1, 2, 0]], np.uint8)
    shown = np.asarray(change_map(label, first, other))[0].tolist()
    assert [tuple(one) for one in shown] == [RIGHT, GAINED, LOST, STILL_WRONG, (0, 0, 0)]
    assert (np.asarray(error_map(label, first)) == np.asarray(error_map(label, first))[:, [0, 1, 0, 1, 4]]).all()
