"""The bootstrap on synthetic segmenters with a known difference, on equal ones, and against a loop."""

import numpy as np
import pytest

from dgkit.data.scores import class_iou, mean_iou
from dgkit.evaluation.benchmark.paired_bootstrap import class_parts, class_values, compare_scores, mean_values

CLASSES = 4


def matrices(random: np.random.Generator, images: int, accuracy: float, difficulty: np.ndarray) -> np.ndarray:
    """Confusion matrices of pictures whose ``difficulty``, shared by all segmenters, changes the accuracy."""
    pixels = 1000
    found = np.zeros((images, CLASSES, CLASSES + 1), np.int64)
    for image in range(images):
        right = np.clip(accuracy + difficulty[image] + 0.02 * random.standard_normal(CLASSES), 0, 1)
        for label in range(CLASSES):
            hits = random.binomial(pixels, right[label])
            found[image, label, label] += hits
            found[image, label, (label + 1) % CLASSES] += pixels - hits
    return found


def pair(seed: int, images: int, gain: float) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    difficulty = 0.08 * random.standard_normal(images)
    return [matrices(random, images, accuracy, difficulty) for accuracy in (0.7, 0.7 + gain)]


def test_the_interval_covers_a_known_difference() -> None:
    """In 100 experiments, of which a 95 % interval covers about 95; the truth is the mean of many images."""
    large = pair(99, 4000, 0.01)
    truth = mean_iou(large[1].sum(0), absent="zero") - mean_iou(large[0].sum(0), absent="zero")
    assert 0.008 < truth < 0.02
    found = [compare_scores([pair(seed, 40, 0.01)], "zero", 1000, seed)[0].miou for seed in range(100)]
    covered = sum(one.low <= truth <= one.high for one in found)
    assert 88 <= covered <= 100
    # Paired: the interval is far narrower than the spread of the scores themselves.
    scores = [mean_iou(pair(seed, 40, 0.01)[0].sum(0), absent="zero") for seed in range(100)]
    assert np.mean([one.high - one.low for one in found]) < 2 * np.std(scores)
    assert sum(one.p < 0.05 for one in found) > 80  # the difference is found


def test_equal_segmenters_have_a_p_of_one() -> None:
    first, _ = pair(0, 30, 0.0)
    (same,) = compare_scores([[first, first]], "zero", 1000, 0)
    assert (same.miou.difference, same.miou.low, same.miou.high, same.miou.p) == (0, 0, 0, 1)
    found = [compare_scores([pair(seed, 30, 0.0)], "zero", 1000, seed)[0].miou for seed in range(100)]
    assert sum(one.p < 0.05 for one in found) <= 14 and np.mean([one.p for one in found]) > 0.35


def test_equal_to_a_loop_over_resamples() -> None:
    first, second = pair(3, 12, 0.05)
    (found,) = compare_scores([[first, second]], "zero", 1000, 7)
    weights = np.random.default_rng(7).multinomial(12, np.full(12, 1 / 12), 1000)
    drawn = np.array(
        [
            mean_iou((second * row[:, None, None]).sum(0), absent="zero")
            - mean_iou((first * row[:, None, None]).sum(0), absent="zero")
            for row in weights
        ]
    )
    assert (found.miou.low, found.miou.high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])))
    expected = class_iou(second.sum(0), "zero") - class_iou(first.sum(0), "zero")
    assert [one.difference for one in found.iou] == pytest.approx(expected.tolist())
    assert found.miou.low > 0 and found.miou.p == pytest.approx(2 / 1001)
    assert compare_scores([[first, second]], "zero", 1000, 7) == [found]
    assert compare_scores([[first, second]], "zero", 1000, 8) != [found]


@pytest.mark.parametrize("absent", ["zero", "skip"])
def test_class_values_are_those_of_the_scores(absent) -> None:
    random = np.random.default_rng(4)
    found = random.integers(0, 9, (5, CLASSES, CLASSES + 1))
    found[:, 2] = 0  # predicted, not labelled
    found[:, :, 3] = found[:, 3] = 0  # neither
    iou = class_values(class_parts(found).sum(0), absent)
    assert np.array_equal(iou, class_iou(found.sum(0), absent), equal_nan=True)
    assert mean_values(iou) == pytest.approx(mean_iou(found.sum(0), absent=absent))
    assert np.isnan(mean_values(np.full((2, 3), np.nan))).all()


def test_a_mean_of_data_sets_and_too_few_images() -> None:
    one, two = pair(5, 10, 0.05), pair(6, 14, 0.02)
    (mean,) = compare_scores([one, two], "zero", 1000, 0)
    parts = [compare_scores([stratum], "zero", 1000, 0)[0].miou for stratum in (one, two)]
    assert mean.miou.difference == pytest.approx(np.mean([part.difference for part in parts])) and mean.iou == ()
    assert mean.to_json([])["iou"] == {}
    (few,) = compare_scores([[matrix[:9] for matrix in one], two], "zero", 1000, 0)
    assert few.miou.difference is not None and few.miou.p is None and few.miou.low is None
    (empty,) = compare_scores([[np.zeros((20, CLASSES, CLASSES + 1), np.int64)] * 2], "zero", 1000, 0)
    assert empty.miou.to_json() == {"difference": None, "low": None, "high": None, "p": None}
