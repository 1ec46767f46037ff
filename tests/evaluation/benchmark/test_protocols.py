"""Scales, windows and means to the constants of the published protocols."""

import numpy as np
import pytest

from dgkit.data import scores
from dgkit.errors import UsageError
from dgkit.evaluation.benchmark.protocols import PROTOCOLS, class_iou, find_protocol, fitted_size, mean_iou, windows
from dgkit.labels import NUM_CLASSES


@pytest.mark.parametrize(
    ("protocol", "dataset", "size", "expected"),
    [
        ("dginstyle", "cityscapes", (1024, 2048), (512, 1024)),
        ("dginstyle", "bdd100k", (720, 1280), (512, 910)),
        ("dginstyle", "mapillary", (2448, 3264), (512, 683)),
        ("dginstyle", "mapillary", (3264, 2448), (683, 512)),
        ("dginstyle", "mapillary", (1000, 4000), (256, 1024)),
        ("dginstyle", "acdc", (1080, 1920), (540, 960)),
        ("dginstyle", "dark_zurich", (1080, 1920), (540, 960)),
        ("hrda", "cityscapes", (1024, 2048), (1024, 2048)),
        ("hrda", "bdd100k", (720, 1280), (1024, 1820)),
        ("hrda", "acdc", (1080, 1920), (1080, 1920)),
        ("half", "bdd100k", (720, 1280), (720, 1280)),
        ("whole", "acdc", (1080, 1920), (540, 960)),
    ],
)
def test_sizes_at_which_sets_are_seen(protocol, dataset, size, expected) -> None:
    assert fitted_size(*size, find_protocol(protocol).scale_of(dataset)) == expected


def test_windows_of_the_protocols() -> None:
    known = {name: (protocol.crop, protocol.stride) for name, protocol in PROTOCOLS.items()}
    assert known == {"dginstyle": (512, 256), "hrda": (1024, 512), "half": (512, 341), "whole": (None, 1)}
    assert windows(512, 1024, 512, 256) == [(0, 512, 0, 512), (0, 512, 256, 768), (0, 512, 512, 1024)]
    # The last window is moved inside, in both directions.
    assert windows(540, 960, 512, 256) == [
        (0, 512, 0, 512), (0, 512, 256, 768), (0, 512, 448, 960),
        (28, 540, 0, 512), (28, 540, 256, 768), (28, 540, 448, 960),
    ]  # fmt: skip
    assert windows(256, 1024, 512, 512) == [(0, 256, 0, 512), (0, 256, 512, 1024)]  # lower than a window
    assert windows(300, 400, None, 1) == [(0, 300, 0, 400)]


def test_windows_cover_every_pixel() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        height, width, crop = rng.integers(1, 90, 3).tolist()
        covered = np.zeros((height, width), int)
        for top, bottom, left, right in windows(height, width, crop, int(rng.integers(1, crop + 1))):
            assert (bottom - top, right - left) == (min(crop, height), min(crop, width))
            covered[top:bottom, left:right] += 1
        assert covered.min() > 0


def test_other_constants_are_named() -> None:
    changed = find_protocol("dginstyle").changed((128, 64), 32)
    assert (changed.scale_of("acdc"), changed.crop, changed.stride) == ((128, 64), 32, 16)
    assert changed.name == "dginstyle, changed"
    assert changed.description.endswith("; changed to scale (128, 64), crop 32, stride 16")
    assert find_protocol("hrda").changed() is PROTOCOLS["hrda"]
    with pytest.raises(UsageError, match="stride 40 with windows of 32 pixels; allowed is 1 to 32"):
        find_protocol("dginstyle").changed(None, 32, 40)
    with pytest.raises(UsageError, match="unknown protocol 'full', allowed: dginstyle, hrda, half, whole"):
        find_protocol("full")


def test_a_class_in_neither_is_left_out_and_one_that_is_only_predicted_scores_0() -> None:
    label = np.array([[0, 0, 1, 1, 255, 255]], np.uint8)
    predicted = np.array([[0, 0, 1, 2, 5, 1]], np.uint8)  # 5 is called on ignored pixels alone
    matrix = scores.confusion(label, predicted)
    iou = class_iou(matrix)
    assert iou[:3].tolist() == [1.0, 0.5, 0.0] and np.isnan(iou[3:]).all()
    assert mean_iou(matrix) == 0.5
    assert np.isnan(mean_iou(np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)))
    assert mean_iou(scores.confusion(label, label % 255)) == 1.0


@pytest.mark.parity
def test_equal_to_torchmetrics() -> None:
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.classification")
    rng = np.random.default_rng(3)
    kind = classification.MulticlassJaccardIndex
    whole, each = (kind(NUM_CLASSES, average=average, ignore_index=255) for average in ("macro", "none"))
    total = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    for size in ((40, 60), (33, 21), (7, 90)):
        label = rng.choice([0, 1, 2, 5, 8, 13, 18, 255], size).astype(np.uint8)
        predicted = np.where(rng.random(size) < 0.7, label % 255, rng.choice([0, 3, 8, 13], size)).astype(np.uint8)
        total += scores.confusion(label, predicted)
        for metric in (whole, each):
            metric.update(torch.from_numpy(predicted.astype(int)), torch.from_numpy(label.astype(int)))
    assert mean_iou(total) == pytest.approx(float(whole.compute()), abs=1e-6)
    assert np.nan_to_num(class_iou(total)) == pytest.approx(each.compute().numpy(), abs=1e-6)
