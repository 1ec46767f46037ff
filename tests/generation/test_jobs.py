"""Jobs are pure functions of (run seed, job index)."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dgkit.data.crops import CropRules, crop
from dgkit.data.datasets import labels_folder
from dgkit.data.index import build_index
from dgkit.data.style_mixes import STYLE_MIXES, StyleMix
from dgkit.generation.jobs import JobPlan, _job_id, make_job, spread_style


@pytest.fixture(scope="module")
def plan(labels: Path) -> JobPlan:
    return JobPlan(build_index(labels_folder(labels)), CropRules(64), STYLE_MIXES["official"], seed=5)


def test_a_job_does_not_depend_on_the_jobs_before_it(plan: JobPlan) -> None:
    in_order = [make_job(plan, index) for index in range(6)]
    alone = [make_job(plan, index) for index in (5, 0, 3)]
    for job, number in zip(alone, (5, 0, 3), strict=True):
        assert job == in_order[number]
        assert np.array_equal(job.label, in_order[number].label)
    assert len({job.id for job in in_order}) == 6
    assert len({job.seed for job in in_order}) == 6


def test_another_seed_makes_other_jobs(plan: JobPlan) -> None:
    other = JobPlan(plan.index, plan.rules, plan.mix, seed=6)
    assert make_job(plan, 0).seed != make_job(other, 0).seed
    assert [make_job(plan, i).box for i in range(8)] != [make_job(other, i).box for i in range(8)]


def test_a_job_says_where_its_label_was_cut(plan: JobPlan) -> None:
    for number in range(5):
        job = make_job(plan, number)
        stems = [sample.id for sample in plan.index.dataset.samples]
        assert np.array_equal(job.label, crop(plan.index.read(stems.index(job.source)), job.box))
        assert job.label.shape == (64, 64)


def test_purposes_do_not_share_random_numbers(plan: JobPlan) -> None:
    """Other crop rules consume other numbers, and leave noise and style alone."""
    other = JobPlan(plan.index, CropRules(32, attempts=3), plan.mix, seed=5, rare=False)
    for number in range(4):
        mine, theirs = make_job(plan, number), make_job(other, number)
        assert (mine.seed, mine.style) == (theirs.seed, theirs.style)
        assert theirs.class_name is None


@pytest.mark.parametrize("name", ["official", "published", "uniform"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_styles_follow_the_mix_closely_even_in_short_runs(name: str, seed: int) -> None:
    mix = STYLE_MIXES[name]
    shares = dict(zip(("sunny", "snowy", "rainy", "foggy", "night", "none"), mix.probabilities, strict=True))
    for length in (16, 100, 1000):
        counts = Counter(spread_style(mix, seed, index) for index in range(length))
        for style, share in shares.items():
            assert abs(counts[style] - share * length) <= 3
            assert counts[style] > 0 or share == 0 or length == 16


def test_a_style_of_weight_zero_never_comes() -> None:
    mix = StyleMix("custom", {"sunny": 1, "night": 1, "none": 0})
    assert {spread_style(mix, 3, index) for index in range(500)} == {"sunny", "night"}


class _Edge(np.random.Generator):
    """A generator whose next number is the largest below 1."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def random(self, *_: object, **__: object) -> float:  # type: ignore[override]
        return float(np.nextafter(1.0, 0.0))


def test_rounding_never_reaches_a_style_of_weight_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np.random, "default_rng", lambda *_: _Edge())
    for mix in (*STYLE_MIXES.values(), StyleMix("thirds", {"sunny": 0.1, "snowy": 0.2, "rainy": 0.4})):
        assert mix.weights.get(spread_style(mix, 0, 0), 0) > 0


@pytest.mark.parametrize(
    ("source", "class_name", "expected"),
    [
        ("00001", "traffic light", "000007_00001_traffic-light"),
        ("a b/c:d*é", None, "000007_a-b-c-d"),
        ("06901_labelTrainIds", "car", "000007_06901_car"),
        ("x" * 200, "car", "000007_" + "x" * 60 + "_car"),
        ("...", None, "000007"),
    ],
)
def test_ids_are_safe_file_names(source: str, class_name: str | None, expected: str) -> None:
    made = _job_id(7, source, class_name)
    assert made == expected
    assert re.fullmatch(r"[A-Za-z0-9._-]+", made)
