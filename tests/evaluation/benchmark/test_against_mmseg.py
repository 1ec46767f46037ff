"""Scores equal mmsegmentation's: its IoUMetric on the same predictions, its test step on the same checkpoint."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

if importlib.util.find_spec("mmseg") is None:
    pytest.skip("needs mmsegmentation: pip install 'dgkit[seg]'", allow_module_level=True)

from dgkit.config import load_config
from dgkit.data.datasets import open_dataset
from dgkit.data.labelmap import read_label
from dgkit.data.scores import class_iou, confusion, mean_iou
from dgkit.evaluation.benchmark.eval_config import EvalConfig
from dgkit.evaluation.benchmark.evaluate import evaluate
from dgkit.labels import CLASSES, IGNORE, NUM_CLASSES
from dgkit.segmenters.opening import open_segmenter
from dgkit.world.write import write_role
from tests.segmenters.mmseg_files import load, model_config, save

pytestmark = pytest.mark.parity
Pair = tuple[np.ndarray, np.ndarray]  # label and prediction, uint8 [H,W]


def disturbed(label: np.ndarray, seed: int) -> np.ndarray:
    """A prediction: most pixels correct, some with a neighbour's class, some random, never class 3 or 16."""
    rng = np.random.default_rng(seed)
    guess = np.roll(label, 3, axis=1)
    guess = np.where(guess < NUM_CLASSES, guess, rng.integers(0, 3, label.shape))
    other = rng.choice([c for c in range(NUM_CLASSES) if c not in (3, 16)], label.shape)
    drawn = rng.random(label.shape)
    return np.where((drawn < 0.8) & (label != IGNORE), label, np.where(drawn < 0.95, guess, other)).astype(np.uint8)


def random_pairs() -> list[Pair]:
    """Label maps of several sizes without class 15, which is predicted, and 16, which is not."""
    rng = np.random.default_rng(1)
    ids = [*range(15), 17, 18, IGNORE]
    labels = [rng.choice(ids, size).astype(np.uint8) for size in ((40, 64), (33, 57), (96, 31), (1, 7))]
    return [(label, disturbed(label, number)) for number, label in enumerate(labels)]


def mmseg_scores(pairs: list[Pair]) -> tuple[np.ndarray, float]:
    """Return (IoU by class, mean IoU) of mmsegmentation's metric, not rounded."""
    metric = load("mmseg.evaluation").IoUMetric
    found = [
        metric.intersect_and_union(torch.from_numpy(p.copy()), torch.from_numpy(t.copy()), NUM_CLASSES, IGNORE)
        for t, p in pairs
    ]
    iou = metric.total_area_to_metrics(*(sum(part) for part in zip(*found, strict=True)))["IoU"]
    return iou, float(np.nanmean(iou))


def check_equal(pairs: list[Pair]) -> None:
    total = sum((confusion(label, predicted) for label, predicted in pairs), np.zeros((19, 19), np.int64))
    iou, mean = mmseg_scores(pairs)
    np.testing.assert_allclose(class_iou(total, absent="zero"), iou, atol=1e-6, rtol=0)  # nan where it has nan
    assert mean_iou(total, absent="zero") == pytest.approx(mean, abs=1e-6)


def test_equal_on_random_maps() -> None:
    pairs = random_pairs()
    check_equal(pairs)
    iou, _ = mmseg_scores(pairs)
    assert iou[15] == 0 and np.isnan(iou[16])  # both cases are covered
    check_equal([(np.full((4, 4), IGNORE, np.uint8), np.zeros((4, 4), np.uint8)), *pairs])


def test_equal_on_the_citys_maps(city: Path) -> None:
    labels = [read_label(s.label, s.encoding) for s in open_dataset("cityscapes", city, "val").samples]
    check_equal([(label, disturbed(label, number)) for number, label in enumerate(labels)])


def test_equal_on_real_maps(shared_folder: Path) -> None:
    """Label maps of GTA5, 1914x1052: the largest for which mmsegmentation's float32 sums are exact."""
    files = sorted((shared_folder / "data" / "gta_labels").glob("*.png"))
    assert files
    labels = [np.asarray(Image.open(file)) for file in files]
    check_equal([(label, disturbed(label, number)) for number, label in enumerate(labels)])


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("city")
    write_role(root, "cityscapes", 4, 5, height=48, width=96, split="val", workers=1)
    return root


def test_equal_to_the_test_loop_of_mmsegmentation(city: Path, tmp_path: Path) -> None:
    """Windows of a resized image, scored at the size of its label map."""
    path = tmp_path / "iter_1.pth"
    network = save(path, model_config())
    theirs = dict(predictions(network, city))
    sets = {"scale": (80, 40), "crop": 32, "stride": 24, "batch": 1, "worst": 0}
    config = load_config(EvalConfig, on=(f"cityscapes={city}",), save_predictions=tmp_path / "p", **sets)
    result = evaluate(open_segmenter(path, device="cpu"), config, tmp_path / "out")
    pairs = []
    for sample in open_dataset("cityscapes", city, "val").samples:
        (predicted,) = (value for name, value in theirs.items() if name.startswith(sample.image.name))
        with Image.open(tmp_path / "p" / "cityscapes" / f"{sample.id}.png") as mine:
            assert (np.asarray(mine) == predicted).mean() > 0.999  # rounding decides between nearly equal logits
        pairs.append((read_label(sample.label, sample.encoding), predicted))
    iou, mean = mmseg_scores(pairs)
    assert np.isfinite(iou).sum() > 10  # the random network predicts more than one class
    found = result["sets"]["cityscapes"]
    assert found["miou"] == pytest.approx(mean, abs=1e-4)
    for name, value in zip(CLASSES, iou, strict=True):
        assert (found["iou"][name] is None) == np.isnan(value)


def predictions(network: Any, city: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (file name, train ids at the size of the label map) of mmsegmentation's data set and test step."""
    steps = [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "scale": (80, 40), "keep_ratio": True},
        {"type": "LoadAnnotations"},
        {"type": "PackSegInputs"},
    ]
    prefix = {"img_path": "leftImg8bit/val", "seg_map_path": "gtFine/val"}
    network.test_cfg = load("mmengine.config").ConfigDict(network.test_cfg)
    dataset = load("mmseg.datasets").CityscapesDataset(data_root=str(city), data_prefix=prefix, pipeline=steps)
    assert len(dataset) == 4
    for item in dataset:
        data = {"inputs": [item["inputs"]], "data_samples": [item["data_samples"]]}
        (found,) = network.test_step(data)
        yield Path(found.img_path).name, found.pred_sem_seg.data[0].numpy().astype(np.uint8)
