"""Labelled crops: rare classes, rescaling, borders, captions, and the same sample from any process."""

import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgkit.data.crops import class_probabilities
from dgkit.data.datasets import labels_folder
from dgkit.data.index import build_index
from dgkit.data.samples import Dataset
from dgkit.errors import InputError, LabelError
from dgkit.training.data.feed import Example
from dgkit.training.data.labelled import LabelledFeed, select_pairs

HEIGHT, WIDTH, TRAIN, BUS = 48, 96, 16, 15


def _write(root: Path, name: str, label: np.ndarray, image: np.ndarray | None = None) -> None:
    (root / "labels").mkdir(parents=True, exist_ok=True)
    (root / "images").mkdir(exist_ok=True)
    Image.fromarray(label).save(root / "labels" / f"{name}.png")
    Image.fromarray(_painted(label) if image is None else image).save(root / "images" / f"{name}.png")


def _painted(label: np.ndarray) -> np.ndarray:
    """Return an image whose red is ten times the class and whose green and blue are row and column."""
    rows, columns = np.mgrid[: label.shape[0], : label.shape[1]]
    return np.stack([np.minimum(label, 20) * 10, rows, columns], axis=-1).astype(np.uint8)


@pytest.fixture
def street(tmp_path: Path) -> Dataset:
    """Six maps of road under sky; map 2 has a train in a corner, map 4 a single pixel of bus."""
    for i in range(6):
        label = np.zeros((HEIGHT, WIDTH), np.uint8)
        label[:20] = 10
        if i == 2:
            label[-8:, -12:] = TRAIN
        if i == 4:
            label[30, 40] = BUS
        _write(tmp_path, f"{i:05}", label)
    return labels_folder(tmp_path)


def _draws(feed: LabelledFeed, count: int) -> list[Example]:
    return [feed.draw(np.random.default_rng([3, i])) for i in range(count)]


def _same(a: Example, b: Example) -> bool:
    return a.caption == b.caption and np.array_equal(a.image, b.image) and np.array_equal(a.label, b.label)


@pytest.mark.parametrize("sampling", ["rare", "uniform", "centre"])
def test_image_and_label_show_the_same_window(street, sampling):
    for example in _draws(LabelledFeed(street, 16, sampling=sampling), 30):
        assert example.image.shape == (16, 16, 3)
        assert np.array_equal(example.image[..., 0], example.label * 10)
        assert len(np.unique(example.image[..., 1])) == len(np.unique(example.image[..., 2])) == 16


def test_classes_are_drawn_by_their_probability_and_shown(street):
    feed = LabelledFeed(street, 16, temperature=0.2, min_pixels=0)
    expected = class_probabilities(build_index(street).counts.sum(0), 0.2)
    classes = [feed._pick(np.random.default_rng([0, i]))[1] for i in range(3000)]
    shares = np.bincount(classes, minlength=19) / len(classes)
    assert np.abs(shares - expected).max() < 0.03
    # A crop is centred on a pixel of its class, so the single pixel of bus is always the middle of its crop.
    lone = [e for e in _draws(feed, 300) if BUS in e.label]
    assert len(lone) > 50
    assert sum(e.label[8, 8] == BUS for e in lone) > 50


def test_only_files_with_enough_pixels_are_drawn_for_a_class(street):
    feed = LabelledFeed(street, 16, min_pixels=50)
    assert feed.files_by_class[TRAIN].tolist() == [2]
    assert feed.probabilities[BUS] == 0  # one pixel is not more than 50
    assert feed.probabilities[TRAIN] > 0.4


def test_the_published_threshold_is_3000_pixels_at_512(street):
    counts = np.zeros((6, 19), np.int64)
    counts[:, 0] = 10**6
    counts[1, TRAIN], counts[2, TRAIN] = 3000, 3001
    feed = LabelledFeed(street, 512, index=replace(build_index(street), counts=counts))
    assert feed.files_by_class[TRAIN].tolist() == [2]


def test_rare_share_leaves_the_rest_uniform(street):
    shown = [
        np.mean([TRAIN in e.label or BUS in e.label for e in _draws(LabelledFeed(street, 16, rare_share=share), 400)])
        for share in (0.0, 0.5, 1.0)
    ]
    assert shown[0] < 0.1 < shown[1] < shown[2]
    assert shown[1] == pytest.approx((shown[0] + shown[2]) / 2, abs=0.08)


def test_a_centre_crop_is_the_centre(street):
    (example,) = _draws(LabelledFeed(street, 16, sampling="centre"), 1)
    assert example.image[0, 0, 1:].tolist() == [(HEIGHT - 16) // 2, (WIDTH - 16) // 2]


def test_image_and_label_are_rescaled_together(street):
    feed = LabelledFeed(street, 16, rescale=(0.5, 2.0), min_pixels=50)
    spans = set()
    for example in _draws(feed, 60):
        rows = example.image[:, 0, 1].astype(float)
        spans.add(round((rows[-1] - rows[0]) / 15 * 2) / 2)  # borders round a little
        away = example.image[..., 0] != example.label * 10  # bilinear mixes along borders of classes only
        assert away.mean() < 0.3
    assert spans == {0.5, 2.0}


def test_an_anchor_that_rescaling_removes_still_centres_the_crop(street):
    feed = LabelledFeed(street, 8, rescale=(0.25,), min_pixels=0)
    index = next(i for i in range(500) if feed._pick(np.random.default_rng([5, i]))[1] == BUS)
    example = feed.draw(np.random.default_rng([5, index]))
    assert example.source.endswith("00004.png")
    assert int(example.image[4, 4, 1]) == pytest.approx(30, abs=3)
    assert int(example.image[4, 4, 2]) == pytest.approx(40, abs=3)


def test_a_map_smaller_than_the_crop_is_padded_with_ignore_and_by_reflection(tmp_path):
    label = np.zeros((20, 40), np.uint8)
    _write(tmp_path, "small", label)
    (example,) = _draws(LabelledFeed(labels_folder(tmp_path), 32), 1)
    assert (example.label[:20] == 0).all() and (example.label[20:] == 255).all()
    assert np.array_equal(example.image[20:, :, 1], example.image[18:6:-1, :, 1])
    assert example.caption == "road"


def test_captions_name_the_classes_of_the_crop_in_the_weather_of_the_sample(street):
    rainy = replace(street, samples=tuple(replace(sample, condition="rain") for sample in street.samples))
    texts = {
        name: _draws(LabelledFeed(rainy, 16, captions=name, min_pixels=50), 20) for name in ("crop", "style", "none")
    }
    train = next(i for i, e in enumerate(texts["crop"]) if np.array_equal(np.unique(e.label), [0, TRAIN]))
    assert texts["crop"][train].caption == "road train"
    assert texts["style"][train].caption == "A city street scene with road train, in rainy weather."
    assert {e.caption for e in texts["none"]} == {""}
    assert {e.style for e in texts["crop"]} == {"rainy"}


def test_a_sample_is_the_same_in_any_order_and_process(street):
    feed = LabelledFeed(street, 16, rescale=(0.5, 1.0, 1.5), rare_share=0.7)
    forward = _draws(feed, 12)
    backward = [feed.draw(np.random.default_rng([3, i])) for i in reversed(range(12))][::-1]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        elsewhere = pool.map(feed.draw, [np.random.default_rng([3, i]) for i in range(12)])
    copied = _draws(pickle.loads(pickle.dumps(feed)), 12)
    for other in (backward, elsewhere, copied):
        assert all(_same(a, b) for a, b in zip(forward, other, strict=True))


def test_pairs_of_different_sizes_are_an_error_with_both_names_or_are_skipped(tmp_path):
    label = np.zeros((20, 40), np.uint8)
    _write(tmp_path, "good", label)
    _write(tmp_path, "odd", label, np.zeros((20, 41, 3), np.uint8))
    dataset = labels_folder(tmp_path)
    with pytest.raises(LabelError, match=r"odd\.png is 40x20 but .*odd\.png is 41x20"):
        select_pairs(dataset)
    usable, skipped = select_pairs(dataset, skip_mismatched=True)
    assert ([sample.id for sample in usable.samples], skipped) == (["good"], 1)


def test_missing_images_are_counted(tmp_path):
    for name in ("a", "b"):
        _write(tmp_path, name, np.zeros((20, 40), np.uint8))
    (tmp_path / "images" / "b.png").unlink()
    with pytest.raises(InputError, match=r"1 of 2 .*b\.png"):
        select_pairs(labels_folder(tmp_path))
    assert select_pairs(labels_folder(tmp_path), skip_mismatched=True)[1] == 1
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(InputError, match="no label map"):
        select_pairs(labels_folder(tmp_path), skip_mismatched=True)


def test_a_map_that_lost_its_class_since_it_was_counted_is_named(street):
    feed = LabelledFeed(street, 16, min_pixels=50)
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(street.samples[2].label)
    with pytest.raises(LabelError, match=r"00002\.png changed"):
        _draws(feed, 40)


def test_real_label_maps_give_the_official_crop_around_rare_classes(shared_folder, tmp_path):
    """GTA5 maps at their own size: 512 x 512 crops, as many as the thresholds allow, around the class drawn."""
    maps = sorted((shared_folder / "data" / "gta_labels").glob("*.png"))
    (tmp_path / "labels").mkdir()
    (tmp_path / "images").mkdir()
    for path in maps:
        (tmp_path / "labels" / path.name).write_bytes(path.read_bytes())
        with Image.open(path) as label:
            Image.new("RGB", label.size).save(tmp_path / "images" / path.name.replace("_labelTrainIds", ""))
    feed = LabelledFeed(labels_folder(tmp_path), 512)
    for i in range(6):
        number, class_id = feed._pick(np.random.default_rng([1, i]))
        example = feed.draw(np.random.default_rng([1, i]))
        assert example.label.shape == (512, 512)
        assert class_id in np.unique(example.label)
        assert feed.dataset.samples[number].label == Path(example.source)
