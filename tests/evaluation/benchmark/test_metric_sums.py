"""The further metrics against torchmetrics, and in the reports, the journal and resumed runs."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dgkit.config import dump_config, load_config
from dgkit.data.scores import confusion
from dgkit.errors import UsageError
from dgkit.evaluation.benchmark.eval_config import METRICS, EvalConfig
from dgkit.evaluation.benchmark.evaluate import evaluate
from dgkit.evaluation.benchmark.metric_sums import metric_scores
from dgkit.evaluation.benchmark.score_journal import JOURNAL
from dgkit.labels import IGNORE, PALETTE
from dgkit.segmenters.onnx import OnnxSegmenter
from dgkit.taxonomies import CITYSCAPES19
from tests.segmenters.onnx_files import palette_model

pytest.importorskip("onnxruntime")


@pytest.mark.parity
def test_accuracies_equal_torchmetrics() -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(0, 19, (64, 64), generator=generator)
    predicted = torch.where(torch.rand(label.shape, generator=generator) < 0.4, label, label.roll(1))
    label[:4] = IGNORE
    matrix = confusion(label.numpy().astype(np.uint8), predicted.numpy().astype(np.uint8), void=True)
    found = metric_scores(["accuracy"], matrix, {}, CITYSCAPES19, "zero")
    macro = classification.MulticlassAccuracy(19, average="macro", ignore_index=IGNORE)
    assert found["mean_accuracy"] == pytest.approx(float(macro(predicted, label)), abs=1e-6)
    weighted = classification.MulticlassJaccardIndex(19, average="weighted", ignore_index=IGNORE)
    assert found["frequency_weighted_iou"] == pytest.approx(float(weighted(predicted, label)), abs=1e-6)


def test_classes_without_labels_have_no_accuracy() -> None:
    matrix = np.zeros((19, 20), np.int64)
    matrix[0, [0, 1, 19]] = 6, 3, 1  # class 1 is predicted but not labelled; one pixel is none of the classes
    found = metric_scores(["accuracy"], matrix, {}, CITYSCAPES19, "zero")
    assert found["mean_accuracy"] == 0.6 and found["frequency_weighted_iou"] == 0.6
    assert found["class_accuracy"]["road"] == 0.6 and found["class_accuracy"]["sidewalk"] is None


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures of stripes in the colours of their labels; in the second, a corner shows another class."""
    root = tmp_path_factory.mktemp("metrics") / "set"
    label = np.repeat(np.array([0, 8, 10, 13], np.uint8), 16)[:, None].repeat(64, 1)
    for number in range(2):
        shown = label.copy()
        shown[: 16 * number, :32] = 1
        for folder, name, values in (
            ("images", f"{number}.png", PALETTE[shown]), ("labels", f"{number}_labelTrainIds.png", label)
        ):  # fmt: skip
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(root / folder / name)
    return root


def run(pictures: Path, tmp_path: Path, **values: Any) -> dict[str, Any]:
    net = tmp_path / "net.onnx"
    if not net.exists():
        palette_model(net, sharpness=100)
    config = load_config(EvalConfig, on=(f"dgkit={pictures}",), scale=(64, 64), crop=64, worst=0, **values)
    return evaluate(OnnxSegmenter(net, "ort", "fp32", "cpu"), config, tmp_path / "out")


def test_further_metrics_are_added_to_a_finished_run(pictures: Path, tmp_path: Path) -> None:
    plain = run(pictures, tmp_path)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert not {"metrics", "classes", "seed"} & set(plain["config"]) and b"sums" not in first[JOURNAL]
    full = run(pictures, tmp_path, metrics="boundary,sizes,calibration,accuracy")
    assert full["run"]["scored"] == 2  # their sums need the pictures
    scores = full["sets"]["dgkit"]
    assert scores["miou"] == plain["sets"]["dgkit"]["miou"]
    assert scores["mean_accuracy"] == (0.75 + 3) / 4 and scores["class_accuracy"]["road"] == 0.75
    assert 0 < scores["boundary_miou"] < 1 and scores["boundary_iou"]["car"] == 1
    assert scores["accuracy_large"] == (0.75 + 3) / 4 and scores["accuracy_small"] is None
    assert scores["ece"] == pytest.approx(1 / 16, abs=0.01)  # confident everywhere, wrong on a sixteenth of the pixels
    assert sum(one["pixels"] for one in scores["calibration_bins"]) == 2 * 64 * 64
    row = next(csv.DictReader((tmp_path / "out" / "report.csv").read_text().splitlines()))
    assert row["mean accuracy"] == "93.75" and row["accuracy, small objects"] == ""
    assert "boundary mIoU" in (tmp_path / "out" / "index.html").read_text()
    again = run(pictures, tmp_path, metrics="boundary,sizes,calibration,accuracy")
    assert again["run"]["continued"] == 2 and again["sets"] == full["sets"]
    back = run(pictures, tmp_path)
    assert back["run"]["continued"] == 2 and back["sets"] == plain["sets"]
    for name in ("report.csv", "images.csv", "config.yaml", "index.html"):
        assert (tmp_path / "out" / name).read_bytes() == first[name]


@pytest.mark.parametrize("damage", [[[1, 2], [3]], [[-1] * 19] * 3, "text", [[1] * 18] * 3, None])
def test_damaged_sums_are_measured_again(pictures: Path, tmp_path: Path, damage: Any) -> None:
    full = run(pictures, tmp_path, metrics="boundary")
    lines = [json.loads(line) for line in (tmp_path / "out" / JOURNAL).read_text().splitlines()]
    lines[1]["sums"]["boundary"] = damage
    lines[2]["sums"] = damage
    (tmp_path / "out" / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = run(pictures, tmp_path, metrics="boundary")
    assert again["run"]["scored"] == 2 and again["sets"] == full["sets"]


def test_the_mean_over_the_classes_in_the_labels(pictures: Path, tmp_path: Path) -> None:
    every, present = (run(pictures, tmp_path, classes=classes)["sets"]["dgkit"] for classes in ("all", "present"))
    assert every["iou"]["sidewalk"] == 0 and every["miou"] == pytest.approx((0.75 + 3) / 5)
    assert present["iou"]["sidewalk"] is None and present["miou"] == pytest.approx((0.75 + 3) / 4)
    assert present["classes"] == 4 and "classes" not in every
    assert "classes in the labels" in (tmp_path / "out" / "index.html").read_text()


def test_names_of_metrics(tmp_path: Path) -> None:
    def metrics(value: Any) -> tuple[str, ...]:
        return load_config(EvalConfig, on=("a=b",), metrics=value).metrics

    assert metrics("sizes, boundary,sizes") == metrics(["boundary", "sizes"]) == ("boundary", "sizes")
    assert metrics("all") == METRICS and metrics("") == ()
    with pytest.raises(UsageError, match="unknown metric 'boundaries'; known metrics: accuracy, boundary") as caught:
        metrics("boundaries")
    assert caught.value.hint == "did you mean boundary?"
    with pytest.raises(UsageError, match="metrics=3 is not allowed"):
        metrics(3)
    config = load_config(EvalConfig, on=("a=b",), metrics="all", classes="present", seed=3)
    recipe = tmp_path / "config.yaml"
    recipe.write_text(dump_config(config))
    assert load_config(EvalConfig, recipe) == config
