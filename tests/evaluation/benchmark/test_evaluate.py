"""``dgkit eval`` on the city's data sets in their real layouts: scores, reports, bad files, interrupted runs."""

import csv
import json
import multiprocessing
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dgkit.config import load_config
from dgkit.data.datasets import open_dataset
from dgkit.data.labelmap import read_label
from dgkit.errors import EngineError, InputError, OutputError, UsageError
from dgkit.evaluation.benchmark.eval_config import EvalConfig
from dgkit.evaluation.benchmark.evaluate import evaluate
from dgkit.evaluation.benchmark.score_journal import JOURNAL
from dgkit.labels import CLASSES, NUM_CLASSES, PALETTE
from dgkit.locks import sole_writer
from dgkit.segmenters.onnx import OnnxSegmenter
from dgkit.world.write import write_role
from tests import crash
from tests.segmenters.onnx_files import externalize, label_model, palette_model

pytest.importorskip("onnxruntime")
ROLES = ("cityscapes", "bdd", "mapillary", "acdc", "darkzurich")
DATASETS = ("cityscapes", "bdd100k", "mapillary", "acdc", "dark_zurich")
GTA_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # of the 19 classes
SMALL = {"scale": (96, 48), "crop": 32, "stride": 24}
SETS = ("--set", "scale=[96,48]", "--set", "crop=32", "--set", "stride=24")


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes of each role, four of ACDC: one per condition."""
    root = tmp_path_factory.mktemp("city")
    for role in ROLES:
        write_role(root / role, role, 4 if role == "acdc" else 3, 5, height=48, width=96, split="val", workers=1)
    return root


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return palette_model(tmp_path_factory.mktemp("net") / "palette.onnx")


def make_config(city: Path, roles: tuple[str, ...] = ROLES, **values: Any) -> EvalConfig:
    on = tuple(f"{role}={city / role}" for role in roles)
    return load_config(EvalConfig, on=on, **{"worst": 1, **SMALL, **values})


def run(net: Path, config: EvalConfig, out: Path) -> dict[str, Any]:
    return evaluate(OnnxSegmenter(net, "ort", "fp32", "cpu"), config, out)


def copied(city: Path, role: str, target: Path) -> Path:
    shutil.copytree(city / role, target / role)
    return target


def samples(city: Path, role: str, name: str) -> list[Any]:
    return list(open_dataset(name, city / role, "val").samples)


@pytest.fixture(scope="module")
def whole(city: Path, net: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """(folder, report) of an uninterrupted run over all sets."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return out, run(net, make_config(city, save_predictions=out / "predictions"), out)


@pytest.mark.parity
def test_equal_to_torchmetrics_on_the_saved_predictions(city: Path, whole) -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    out, result = whole
    assert list(result["sets"]) == list(DATASETS)
    for role, name in zip(ROLES, DATASETS, strict=True):
        metric = classification.MulticlassJaccardIndex(NUM_CLASSES, ignore_index=255)
        for sample in samples(city, role, name):
            predicted = read_label(out / "predictions" / name / f"{sample.id}.png").astype(int)
            label = read_label(sample.label, sample.encoding).astype(int)
            metric.update(torch.from_numpy(predicted), torch.from_numpy(label))
        assert result["sets"][name]["miou"] == pytest.approx(float(metric.compute()), abs=1e-6)


def test_the_report(whole) -> None:
    out, result = whole
    sets = result["sets"]
    assert json.loads((out / "report.json").read_text()) == result
    assert {name: s["images"] for name, s in sets.items()} == dict(zip(DATASETS, (3, 3, 3, 4, 3), strict=True))
    assert sorted(sets["acdc"]["conditions"]) == ["fog", "night", "rain", "snow"]
    assert sets["dark_zurich"]["conditions"] == {} and sets["acdc"]["conditions"]["fog"]["images"] == 1
    assert "mapping A" in sets["mapillary"]["labels"][0]
    assert sum(map(sum, sets["bdd100k"]["confusion"])) > 0
    means = [sets[name]["miou"] for name in DATASETS]
    assert result["averages"] == pytest.approx({"Avg3": np.mean(means[:3]), "Avg5": np.mean(means)})
    assert result["provenance"]["versions"]["torch"] and result["run"]["scored"] == 16
    assert result["protocol"]["name"] == "dginstyle, changed" and result["segmenter"]["engine"] == "ort"
    rows = list(csv.DictReader((out / "report.csv").read_text().splitlines()))
    assert [row["set"] for row in rows][3:8] == ["acdc", "acdc fog", "acdc night", "acdc rain", "acdc snow"]
    assert [row["set"] for row in rows][-2:] == ["Avg3", "Avg5"]
    assert rows[0]["mIoU"] == f"{100 * sets['cityscapes']['miou']:.2f}" and rows[0]["segmenter"]
    assert len(list(csv.DictReader((out / "images.csv").read_text().splitlines()))) == 16


def test_the_gallery_is_self_contained(whole) -> None:
    out, _ = whole
    page = (out / "index.html").read_text()
    assert page.count("<figure>") == 5  # worst=1: one image per data set
    sources = re.findall(r'src="([^"]{5})', page)
    assert len(sources) == 5 + 5 * 4 and set(sources) == {"data:"}
    assert " href=" not in page and "://" not in page and "mapping A" in page
    with Image.open(out / "confusion-acdc.png") as picture:
        assert min(picture.size) > 500


def oracle_set(city: Path, target: Path) -> Path:
    """The same data sets with images that show the colours of their labels."""
    for role, name in zip(ROLES, DATASETS, strict=True):
        shutil.copytree(city / role, target / role)
        for sample in samples(target, role, name):
            label = read_label(sample.label, sample.encoding)
            colours = np.concatenate([PALETTE, np.zeros((256 - NUM_CLASSES, 3), np.uint8)])[label]
            Image.fromarray(colours).save(sample.image, "PNG")  # read by content, not by file ending
    return target


def test_an_oracle_scores_100(city: Path, net: Path, tmp_path: Path) -> None:
    root = oracle_set(city, tmp_path / "sets")
    result = run(net, make_config(root, worst=0), tmp_path / "out")
    assert [scores["miou"] for scores in result["sets"].values()] == [1.0] * 5
    assert result["averages"] == {"Avg3": 1.0, "Avg5": 1.0}
    assert {part["miou"] for part in result["sets"]["acdc"]["conditions"].values()} == {1.0}
    named = run(net, make_config(root, ("mapillary",), worst=0), tmp_path / "b")
    assert named["averages"] == {}
    by_name = load_config(EvalConfig, on=(f"mapillary_b={root / 'mapillary'}",), worst=0, **SMALL)
    other = run(net, by_name, tmp_path / "c")
    assert other["sets"]["mapillary_b"]["labels"] == ["Mapillary Vistas v1.2 ids 0..65, mapping B (by name)"]


def test_photographs_as_users_have_them_score_100(net: Path, tmp_path: Path) -> None:
    """Turned by EXIF, with 16 bits, with names of other systems, next to hidden copies of another scene."""
    root, numbers = tmp_path / "gta", np.random.default_rng(0)
    for name in ("images", "labels", "images/.ipynb_checkpoints", "labels/.ipynb_checkpoints", "labels/@eaDir"):
        (root / name).mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # is shown turned by 90 degrees clockwise
    names = {"turned": b"turned.jpg", "deep": b"deep.png", "upper": b"UPPER.PNG", "latin": b"stra\xdfe.png"}
    for kind, name in names.items():
        label = np.kron(numbers.permutation(NUM_CLASSES)[:8].reshape(2, 4), np.ones((24, 24), int))
        image, path = PALETTE[label], root / "images" / os.fsdecode(name)
        if kind == "turned":
            Image.fromarray(np.rot90(image).copy()).save(path, "PNG", exif=exif)
        elif kind == "deep":
            cv2.imwrite(str(path), image[:, :, ::-1].astype(np.uint16) * 256 + 99)
        else:
            with path.open("wb") as stream:  # names that are not UTF-8 are no text
                Image.fromarray(image).save(stream, "PNG")
        label_path = root / "labels" / path.with_suffix(".PNG" if kind == "upper" else ".png").name
        with label_path.open("wb") as stream:
            Image.fromarray(np.array(GTA_IDS, np.uint8)[label]).save(stream, "PNG")
    for name in ("labels/.ipynb_checkpoints/deep.png", "labels/@eaDir/deep.png", "labels/._deep.png"):
        shutil.copyfile(root / "labels" / "turned.png", root / name)
    whole_images = {"scale": (96, 48), "protocol": "whole", "crop": None, "stride": None}
    config = load_config(EvalConfig, on=(f"gta={root}",), worst=4, **whole_images)
    scores = run(net, config, tmp_path / "out")["sets"]["gta"]
    assert scores["images"] == 4 and scores["miou"] == 1


def test_the_report_states_ignored_orientations(
    city: Path, net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(city, ("cityscapes",), worst=0)
    assert "exif" not in run(net, config, tmp_path / "out")
    monkeypatch.setenv("DGKIT_EXIF", "ignore")
    assert run(net, config, tmp_path / "out")["exif"] == "ignore"


def broken(city: Path, target: Path) -> Path:
    """One defect of each kind in five of six scenes."""
    write_role(target / "cityscapes", "cityscapes", 6, 5, height=48, width=96, split="val", workers=1)
    found = samples(target, "cityscapes", "cityscapes")
    found[0].image.unlink()
    with Image.open(found[1].image) as picture:
        smaller = picture.resize((48, 24))
    smaller.save(found[1].image)
    Image.fromarray(np.full((48, 96), 77, np.uint8)).save(found[2].label)
    data = found[3].image.read_bytes()
    found[3].image.write_bytes(data[: len(data) // 2])
    found[4].label.with_name(found[4].label.name.replace("_labelTrainIds", "_labelIds")).unlink(missing_ok=True)
    found[4].label.unlink()
    return target


def test_bad_files_are_all_listed_and_refused(city: Path, net: Path, tmp_path: Path) -> None:
    root = broken(city, tmp_path / "sets")
    out = tmp_path / "out"
    with pytest.raises(InputError, match="3 bad files") as caught:
        run(net, make_config(root, ("cityscapes",)), out)
    for part in ("1 of kind 'label map without photograph'", "1 of kind 'photograph without label map'",
                 "1 of kind 'sizes differ'"):  # fmt: skip
        assert part in caught.value.message
    assert "--skip-bad" in caught.value.hint and not out.exists()


def test_defects_found_while_reading_are_listed(city: Path, net: Path, tmp_path: Path) -> None:
    root = broken(city, tmp_path / "sets")
    for sample in samples(root, "cityscapes", "cityscapes")[:2]:
        sample.label.unlink()  # their defects show in names and headers
        (sample.image or sample.label).unlink(missing_ok=True)
    orphan = [
        p
        for p in root.rglob("*_leftImg8bit.png")
        if not list(root.rglob(p.name.replace("_leftImg8bit", "_gtFine_labelTrainIds")))
    ]
    for path in orphan:
        path.unlink()
    for path in root.rglob("*_labelIds.png"):
        path.unlink()
    with pytest.raises(InputError, match="2 bad files") as caught:
        run(net, make_config(root, ("cityscapes",)), tmp_path / "out")
    assert "1 of kind 'damaged file'" in caught.value.message and "1 of kind 'unknown ids'" in caught.value.message


def test_bad_files_are_skipped_without_strict(city: Path, net: Path, tmp_path: Path) -> None:
    root = broken(city, tmp_path / "sets")
    result = run(net, make_config(root, ("cityscapes",), strict=False), tmp_path / "out")
    assert {part["kind"]: part["count"] for part in result["bad_files"]["skipped"]} == {
        "label map without photograph": 1,
        "photograph without label map": 1,
        "sizes differ": 1,
        "unknown ids": 1,
        "damaged file": 1,
    }
    assert result["sets"]["cityscapes"]["images"] == 1 and result["run"]["scored"] == 1
    assert "5 bad files were skipped" in (tmp_path / "out" / "index.html").read_text()
    good = samples(root, "cityscapes", "cityscapes")[-1]
    good.image.write_bytes(b"no picture")
    with pytest.raises(InputError, match="no image of cityscapes can be scored"):
        run(net, make_config(root, ("cityscapes",), strict=False), tmp_path / "out")


def without_run(report: dict[str, Any]) -> dict[str, Any]:
    return {name: report[name] for name in ("segmenter", "protocol", "averages", "sets", "bad_files")}


def test_a_killed_run_resumes_at_the_next_image(city: Path, net: Path, whole, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["eval", str(net), "--out", str(out), "--device", "cpu", *SETS]
    command += [word for role in ROLES for word in ("--on", f"{role}={city / role}")]
    # The run writes the settings, then one line per image; the sixth write is cut in half.
    process = multiprocessing.get_context("spawn").Process(target=crash.run_until, args=(command, 5))
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    assert not (out / JOURNAL).read_bytes().endswith(b"\n")
    result = run(net, make_config(city), out)
    assert result["run"]["continued"] == 4 and result["run"]["scored"] == 12
    assert without_run(result) == without_run(whole[1])


def test_only_unchanged_images_keep_their_scores(city: Path, net: Path, tmp_path: Path) -> None:
    root, out = copied(city, "darkzurich", tmp_path), tmp_path / "out"
    shutil.copytree(city / "bdd", root / "bdd")
    first = run(net, make_config(root, ("darkzurich",)), out)
    assert first["run"]["continued"] == 0
    again = run(net, make_config(root, ("darkzurich", "bdd"), batch=2, workers=1), out)  # one more data set
    assert (again["run"]["continued"], again["run"]["scored"]) == (3, 3)
    image = samples(root, "darkzurich", "dark_zurich")[0].image
    Image.fromarray(np.zeros((48, 96, 3), np.uint8)).save(image)
    changed = run(net, make_config(root, ("darkzurich",)), out)
    assert (changed["run"]["continued"], changed["run"]["scored"]) == (2, 1)
    saved = run(net, make_config(root, ("darkzurich",), save_predictions=tmp_path / "p"), out)
    assert saved["run"]["scored"] == 3 and len(list((tmp_path / "p" / "dark_zurich").iterdir())) == 3
    with pytest.raises(OutputError, match="holds scores of other settings: tta was False, is True"):
        run(net, make_config(root, ("darkzurich",), tta=True), out)
    with sole_writer(out), pytest.raises(OutputError, match="another run is writing to"):
        run(net, make_config(root, ("darkzurich",)), out)


def test_refused_folders_and_data_sets(city: Path, net: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds other files"):
        run(net, make_config(city, ("bdd",)), tmp_path)
    for on, message in (
        (("kitti=x",), "'kitti=x' is not NAME=DIR"),
        (("bdd",), "'bdd' is not NAME=DIR"),
        ((f"bdd={city / 'bdd'}", f"bdd100k={city / 'bdd'}"), "bdd100k appears twice"),
    ):
        with pytest.raises(UsageError, match=message):
            run(net, load_config(EvalConfig, on=on), tmp_path / "out")
    with pytest.raises(InputError, match="no label maps of Cityscapes"):
        run(net, load_config(EvalConfig, on=(f"cityscapes={city / 'bdd'}",)), tmp_path / "out")


def test_a_set_without_val_is_scored_on_its_only_split(net: Path, tmp_path: Path) -> None:
    """``dgkit world --role acdc`` writes the split train, which ``dgkit eval`` finds as typed."""
    write_role(tmp_path / "acdc", "acdc", 4, 5, height=48, width=96, workers=1)
    config, lines = make_config(tmp_path, ("acdc",)), list[str]()
    report = evaluate(OnnxSegmenter(net, "ort", "fp32", "cpu"), config, tmp_path / "out", notify=lines.append)
    assert (report["sets"]["acdc"]["split"], report["sets"]["acdc"]["images"]) == ("train", 4)
    assert lines == [f"acdc: {tmp_path / 'acdc'} has no split val; its only split, train, is scored"]
    with pytest.raises(InputError, match=r"split val, below .* it holds train"):
        run(net, make_config(tmp_path, ("acdc",), split="val"), tmp_path / "explicit")
    write_role(tmp_path / "acdc", "acdc", 4, 5, height=48, width=96, split="test", workers=1)
    with pytest.raises(InputError, match="it holds train and test"):
        run(net, config, tmp_path / "ambiguous")


def test_pairs_by_patterns_have_the_scores_of_their_data_set(city: Path, net: Path, whole, tmp_path: Path) -> None:
    tree = "{}/**/*{}".format
    images, labels = (tree(city / "cityscapes" / folder, end) for folder, end in (
        ("leftImg8bit", "_leftImg8bit.png"), ("gtFine", "_labelIds.png")))  # fmt: skip
    config = load_config(EvalConfig, on=(f"pairs={images}::{labels}::cityscapes_ids",), worst=0, **SMALL)
    report = run(net, config, tmp_path / "out")
    assert report["sets"]["pairs"]["confusion"] == whole[1]["sets"]["cityscapes"]["confusion"]


def test_protocol_half_scores_halved_label_maps(city: Path, net: Path, tmp_path: Path) -> None:
    found = run(net, make_config(city, ("mapillary",), protocol="half", worst=0), tmp_path / "half")
    full = run(net, make_config(city, ("mapillary",), worst=0), tmp_path / "full")
    pixels = [np.sum(result["sets"]["mapillary"]["confusion"]) for result in (found, full)]
    assert found["sets"]["mapillary"]["halved"] and 0.2 < pixels[0] / pixels[1] < 0.3
    assert set(found["sets"]["mapillary"]["iou"]) == set(CLASSES)


def test_logits_that_are_not_finite_are_refused(city: Path, tmp_path: Path) -> None:
    broken_net = palette_model(tmp_path / "nan.onnx", bias_of_wall=float("nan"))
    with pytest.raises(EngineError, match=r"nan\.onnx: output 'logits' is NaN or infinite for .*cityscapes.*\.png"):
        run(broken_net, make_config(city, ("cityscapes",)), tmp_path / "out")


def test_class_numbers_of_void_are_misses(city: Path, tmp_path: Path) -> None:
    root = oracle_set(city, tmp_path / "sets")
    numbers = label_model(tmp_path / "l.onnx")
    whole_images = {"worst": 1, "scale": (96, 48), "protocol": "whole", "crop": None, "stride": None}
    config = make_config(root, ("cityscapes",), **whole_images)
    perfect = run(numbers, config, tmp_path / "a")["sets"]["cityscapes"]
    assert perfect["miou"] == 1 and "predicted_void" not in perfect
    car = CLASSES.index("car")
    names = ["void" if name == "car" else name for name in CLASSES]
    numbers.with_suffix(".yaml").write_text(json.dumps({"classes": names, "mean": [0] * 3, "std": [1] * 3}))
    out = tmp_path / "b"
    result = run(numbers, config, out)
    scores = result["sets"]["cityscapes"]
    pixels = sum(perfect["confusion"][car])
    assert pixels and scores["predicted_void"] == [pixels if i == car else 0 for i in range(NUM_CLASSES)]
    assert scores["iou"] == {**perfect["iou"], "car": 0.0}
    assert scores["pixel_accuracy"] == pytest.approx(1 - pixels / np.sum(perfect["confusion"]))
    assert "ignored classes, which are none of the 19: void" in result["segmenter"]["notes"]
    resumed = run(numbers, config, out)
    assert resumed["run"]["scored"] == 0 and resumed["sets"] == result["sets"]


def test_scores_belong_to_the_weights(city: Path, tmp_path: Path) -> None:
    path = palette_model(tmp_path / "net.onnx")
    externalize(path)
    config = make_config(city, ("cityscapes",), worst=0)
    run(path, config, tmp_path / "out")
    content = bytearray((tmp_path / "net.onnx.data").read_bytes())
    content[0] ^= 1
    (tmp_path / "net.onnx.data").write_bytes(content)
    with pytest.raises(
        OutputError, match=r"holds scores of other settings: segmenter: sha256 was '\w{64}', is '\w{64}'$"
    ):
        run(path, config, tmp_path / "out")
