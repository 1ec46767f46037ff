"""Rare class sampling: the published formulas without the published defects."""

from pathlib import Path

import numpy as np
import pytest

from dgkit.data.crops import (
    MAX_FILES,
    CropBox,
    CropRules,
    anchor_box,
    class_probabilities,
    crop,
    draw_crop,
    drawable_classes,
)
from dgkit.data.datasets import labels_folder
from dgkit.data.index import ClassIndex, build_index
from dgkit.errors import LabelError, UsageError
from tests.data.trees import write_ids


def index_of(folder: Path, *maps: np.ndarray) -> ClassIndex:
    for i, ids in enumerate(maps):
        write_ids(folder / f"{i:03d}.png", ids)
    return build_index(labels_folder(folder))


def filled(height: int, width: int, ground: int, **patches: tuple[slice, slice]) -> np.ndarray:
    ids = np.full((height, width), ground, np.uint8)
    for name, where in patches.items():
        ids[where] = int(name[1:])
    return ids


# --- formulas ---------------------------------------------------------------------------------------------------------


def test_class_probabilities_of_the_published_formula() -> None:
    assert class_probabilities([50, 49, 1], 0.01).tolist() == pytest.approx([5.2e-22, 1.4e-21, 1.0], rel=0.05)
    counts = np.arange(1, 20) * 1000.0
    share = counts / counts.sum()
    expected = np.exp((1 - share) / 0.01) / np.exp((1 - share) / 0.01).sum()
    assert np.allclose(class_probabilities(counts, 0.01), expected, rtol=1e-9)


def test_class_probabilities_of_absent_and_ineligible_classes() -> None:
    result = class_probabilities([0, 500, 500, 500], 0.01, np.array([True, True, True, False]))
    assert result.tolist() == [0, 0.5, 0.5, 0]
    # Leaving the rare class out leaves numbers that exp alone would round to 0/0.
    assert class_probabilities([1e9, 1], 0.0001, np.array([True, False])).tolist() == [1, 0]
    with pytest.raises(LabelError, match="every pixel is ignore"):
        class_probabilities(np.zeros(19))


def test_thresholds() -> None:
    assert CropRules(512).pixel_threshold == 3000 and CropRules(512).share_threshold == pytest.approx(2621.44)
    assert CropRules((256, 128)).pixel_threshold == 375 and CropRules(512, min_pixels=7).pixel_threshold == 7
    assert CropRules((256, 128)).shape == (256, 128)


@pytest.mark.parametrize(
    ("x", "left"), [(10, 0), (255, 0), (256, 0), (257, 1), (957, 701), (1657, 1401), (1658, 1402), (1900, 1402)]
)
def test_windows_are_centred_and_clamped(x: int, left: int) -> None:
    assert anchor_box(500, x, 1052, 1914, 512) == CropBox(left, 244, 512, 512)


def test_windows_of_other_shapes() -> None:
    assert anchor_box(99, 0, 100, 300, (20, 60)) == CropBox(0, 80, 60, 20)
    assert anchor_box(3, 5, 8, 600, 512) == CropBox(0, 0, 512, 512)


def test_a_map_smaller_than_the_window_is_padded_with_ignore() -> None:
    label = np.zeros((3, 2), np.uint8)
    result = crop(label, anchor_box(1, 1, 3, 2, 4))
    assert result.tolist() == [[0, 0, 255, 255]] * 3 + [[255] * 4]
    assert (label == 0).all() and not result.flags.writeable


def test_a_crop_is_a_copy() -> None:
    label = np.zeros((4, 4), np.uint8)
    result = crop(label, CropBox(0, 0, 4, 4))
    label[0, 0] = 3
    assert result[0, 0] == 0


# --- drawing ----------------------------------------------------------------------------------------------------------


def test_a_draw_is_the_window_of_its_box(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    index = index_of(tmp_path, *(rng.integers(0, 19, (40, 60), dtype=np.uint8) for _ in range(3)))
    rules = CropRules((16, 24))
    for seed in range(40):
        draw = draw_crop(index, rules, np.random.default_rng(seed))
        assert np.array_equal(draw.label, crop(index.read(draw.sample_index), draw.box))
        assert draw.label.shape == (16, 24) and draw.label.dtype == np.uint8 and not draw.label.flags.writeable
        assert 0 <= draw.box.x <= 60 - 24 and 0 <= draw.box.y <= 40 - 16
        count = (draw.label == draw.class_id).sum()
        assert draw.rule_met == (count > 0.01 * 16 * 24) and count > 0


def test_a_draw_depends_on_the_generator_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    index = index_of(tmp_path, *(rng.integers(0, 19, (40, 60), dtype=np.uint8) for _ in range(3)))
    for rare in (True, False):
        draws = [draw_crop(index, CropRules(16), np.random.default_rng(9), rare) for _ in range(2)]
        assert draws[0].box == draws[1].box and draws[0].sample_index == draws[1].sample_index
        assert np.array_equal(draws[0].label, draws[1].label)


def test_the_one_percent_rule_is_strict(tmp_path: Path) -> None:
    # 26 of 51x51 pixels are below, 27 above 1 % of the area (26.01).
    for count, met in ((26, False), (27, True)):
        ids = np.full((51, 51), 255, np.uint8)
        ids.flat[:count] = 13
        draw = draw_crop(index_of(tmp_path / str(count), ids), CropRules(51), np.random.default_rng(0))
        assert draw.rule_met is met and draw.class_id == 13


def test_the_published_size_needs_2622_pixels(tmp_path: Path) -> None:
    for count, met in ((2621, False), (2622, True)):
        ids = np.full((512, 512), 255, np.uint8)
        ids.flat[:count] = 12
        draw = draw_crop(index_of(tmp_path / str(count), ids), CropRules(512), np.random.default_rng(0))
        assert draw.rule_met is met


def test_a_class_with_one_pixel_works(tmp_path: Path) -> None:
    for y, x in ((0, 0), (39, 59), (17, 23)):
        ids = np.full((40, 60), 255, np.uint8)
        ids[y, x] = 16
        draw = draw_crop(index_of(tmp_path / f"{y}", ids), CropRules(8), np.random.default_rng(1))
        assert draw.class_id == 16 and (draw.label == 16).sum() == 1 and draw.rule_met
        draw = draw_crop(build_index(labels_folder(tmp_path / f"{y}")), CropRules(16), np.random.default_rng(1))
        assert (draw.label == 16).sum() == 1 and not draw.rule_met and draw.attempts == 1


def test_every_pixel_can_be_the_anchor(tmp_path: Path) -> None:
    index = index_of(tmp_path, np.zeros((1, 4), np.uint8))
    rules = CropRules(1, min_pixels=0)
    drawn = {draw_crop(index, rules, np.random.default_rng(seed)).box.x for seed in range(60)}
    assert drawn == {0, 1, 2, 3}


def test_files_below_the_threshold_are_not_drawn_for_a_class(tmp_path: Path) -> None:
    many = filled(64, 64, 0, c13=(slice(0, 8), slice(0, 8)))  # 64 px of car; the threshold for 64x64 is 46.9
    few = filled(64, 64, 0, c13=(slice(0, 6), slice(0, 6)), c12=(slice(20, 24), slice(0, 8)))  # 36 and 32 px
    index = index_of(tmp_path, many, few)
    rules = CropRules(64)
    probabilities = drawable_classes(index, rules)
    assert probabilities[12] == 0 and probabilities[13] > 0.99 and probabilities.sum() == pytest.approx(1)
    draws = [draw_crop(index, rules, np.random.default_rng(seed)) for seed in range(30)]
    assert {(d.class_id, d.sample_index) for d in draws} == {(13, 0)}


def test_an_unreachable_rule_leads_to_another_file(tmp_path: Path) -> None:
    few = np.full((32, 32), 255, np.uint8)
    few.flat[:5] = 15
    many = np.full((32, 32), 255, np.uint8)
    many[8:24, 8:24] = 15
    index = index_of(tmp_path, few, few, many)
    rules = CropRules(32, min_pixels=0)
    draws = [draw_crop(index, rules, np.random.default_rng(seed)) for seed in range(20)]
    assert all(d.rule_met and d.sample_index == 2 for d in draws)
    assert {d.files_tried for d in draws} == {1, 2, 3}
    assert all(d.attempts == d.files_tried for d in draws)  # one look at a file that can never pass


def test_attempts_end_and_the_best_window_is_kept(tmp_path: Path) -> None:
    # Scattered pixels: each map has more than 1 % of a window in all, no window ever has.
    maps = []
    for i in range(MAX_FILES + 2):
        ids = np.full((80, 80), 255, np.uint8)
        ids[::16, ::16] = 18
        ids[0, 1 : 1 + min(i, 1)] = 18
        maps.append(ids)
    index = index_of(tmp_path, *maps)
    rules = CropRules(10, min_pixels=0, min_share=0.05, attempts=4)
    draw = draw_crop(index, rules, np.random.default_rng(2))
    assert not draw.rule_met and draw.files_tried == MAX_FILES and draw.attempts == 4 * MAX_FILES
    assert (draw.label == 18).sum() >= 1


def test_uniform_windows_reach_both_ends(tmp_path: Path) -> None:
    index = index_of(tmp_path, np.zeros((5, 6), np.uint8), np.zeros((3, 9), np.uint8))
    boxes = {0: set(), 1: set()}
    for seed in range(400):
        draw = draw_crop(index, CropRules(4), np.random.default_rng(seed), rare=False)
        assert draw.class_id is None and draw.rule_met
        boxes[draw.sample_index].add((draw.box.x, draw.box.y))
        if draw.sample_index == 1:
            assert (draw.label[3] == 255).all()
    assert boxes == {0: {(x, y) for x in range(3) for y in range(2)}, 1: {(x, 0) for x in range(6)}}


def test_a_map_changed_since_it_was_indexed(tmp_path: Path) -> None:
    index = index_of(tmp_path, np.full((8, 8), 4, np.uint8))
    write_ids(tmp_path / "000.png", np.full((8, 8), 5, np.uint8))
    with pytest.raises(LabelError, match="changed after it was indexed"):
        draw_crop(index, CropRules(4), np.random.default_rng(0))


def test_maps_of_ignore_only(tmp_path: Path) -> None:
    index = index_of(tmp_path, np.full((8, 8), 255, np.uint8))
    with pytest.raises(LabelError, match="every pixel is ignore"):
        draw_crop(index, CropRules(4), np.random.default_rng(0))


@pytest.mark.parametrize(
    "settings",
    [{"size": 0}, {"size": (4, -1)}, {"attempts": 0}, {"temperature": 0.0}, {"min_share": 1.0}, {"min_pixels": -1.0}],
)
def test_rules_out_of_range(settings: dict) -> None:
    with pytest.raises(UsageError, match="not allowed"):
        CropRules(**{"size": 8, **settings})


def test_real_maps(shared_folder: Path) -> None:
    index = build_index(labels_folder(shared_folder / "data" / "gta_labels"))
    draws = [draw_crop(index, CropRules(512), np.random.default_rng(seed)) for seed in range(12)]
    for draw in draws:
        assert draw.rule_met and (draw.label == draw.class_id).sum() > 2621
        whole = index.read(draw.sample_index)
        box = draw.box
        assert np.array_equal(draw.label, whole[box.y : box.y + 512, box.x : box.x + 512])
    assert len({draw.class_id for draw in draws}) >= 4
