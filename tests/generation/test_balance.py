"""Class and style balance: its effect, and that a job does not depend on the order of computation."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dgkit
from dgkit.data.crops import CropRules
from dgkit.data.datasets import labels_folder
from dgkit.data.index import ClassIndex, build_index
from dgkit.data.manifest import Manifest
from dgkit.data.style_mixes import load_style_mix
from dgkit.errors import UsageError
from dgkit.generation.balance import Balance
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.jobs import JobPlan, make_job
from dgkit.generation.merging import merge
from tests.scenes import FAST, snapshot

CAR, POLE, RIDER = 13, 5, 12


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ClassIndex:
    """Road everywhere; cars, fewer poles, a rider: without balance, the rider is drawn every time."""
    folder = tmp_path_factory.mktemp("maps")
    for number, (class_id, size) in enumerate([(CAR, 24), (CAR, 24), (POLE, 12), (RIDER, 6)]):
        label = np.zeros((96, 160), np.uint8)
        label[40 : 40 + size, 60 : 60 + size] = class_id
        Image.fromarray(label).save(folder / f"{number}.png")
    return build_index(labels_folder(folder))


def plan(index: ClassIndex, classes: bool, styles: bool, mix: str = "uniform") -> JobPlan:
    balance = Balance(classes, styles) if classes or styles else None
    return JobPlan(index, CropRules((32, 32), 10, 0.0, 10, 0.005), load_style_mix(mix), 3, True, balance)


def class_counts(given: JobPlan, count: int) -> Counter[str | None]:
    return Counter(make_job(given, number).class_name for number in range(count))


def test_classes_rare_in_the_scenes_are_drawn(index: ClassIndex) -> None:
    plain, balanced = (class_counts(plan(index, classes, False), 60) for classes in (False, True))
    assert plain["car"] < balanced["car"]
    shares = []
    for classes in (False, True):
        given = plan(index, classes, False)
        pixels = sum(np.bincount(make_job(given, n).label.ravel(), minlength=256)[:19] for n in range(60))
        shares.append(pixels[[CAR, POLE, RIDER]] / pixels.sum())
    even = [share.min() / share.max() for share in shares]
    print(f"rarest over most frequent of three classes: {even[0]:.2f} without balance, {even[1]:.2f} with")
    assert even[1] > 2 * even[0]


@pytest.mark.parametrize(("classes", "styles"), [(True, False), (False, True), (True, True)])
def test_a_job_is_the_same_in_any_order(index: ClassIndex, classes: bool, styles: bool) -> None:
    given = plan(index, classes, styles)
    whole = [make_job(given, number) for number in range(80)]
    other = plan(index, classes, styles)
    for number in (79, 3, 40, 0, 79, 12):
        again = make_job(other, number)
        assert again == whole[number] and np.array_equal(again.label, whole[number].label)


def test_balance_that_is_off_changes_nothing(index: ClassIndex) -> None:
    given, without = plan(index, False, True, mix="night"), plan(index, False, False, mix="night")
    for number in range(10):
        assert make_job(given, number) == make_job(without, number)


def test_each_class_has_its_share_of_the_styles(index: ClassIndex) -> None:
    given = plan(index, True, True)
    styles_of: dict[str | None, Counter[str]] = defaultdict(Counter)
    for number in range(100):
        job = make_job(given, number)
        styles_of[job.class_name][job.style] += 1
    assert len(styles_of) > 1
    for styles in styles_of.values():
        expected = styles.total() / 5
        assert all(abs(styles[style] - expected) <= 2 for style in ("sunny", "snowy", "rainy", "foggy", "night"))


def test_an_interrupted_run_and_shards_have_the_same_jobs(micro: Path, labels: Path, tmp_path: Path) -> None:
    settings = {"labels": labels, "model": str(micro), "balance_classes": True, "balance_styles": True, **FAST}
    dgkit.generate(tmp_path / "a", count=4, **settings)
    dgkit.generate(tmp_path / "b", count=2, **settings)
    dgkit.generate(tmp_path / "b", count=4, **settings)
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")
    parts = [dgkit.generate(tmp_path / f"{n}", count=4, shard=f"{n}/2", **settings).out for n in (1, 2)]
    merged = merge(tmp_path / "merged", parts).out
    whole = Manifest(tmp_path / "a" / "manifest.jsonl").read()
    assert Manifest(merged / "manifest.jsonl").read() == whole
    assert "balance_classes: true" in (tmp_path / "a" / "config.yaml").read_text()


def test_uniform_crops_have_no_classes_to_balance() -> None:
    with pytest.raises(UsageError, match="--balance-classes and --no-rare"):
        GenerateConfig(balance_classes=True, rare=False)
