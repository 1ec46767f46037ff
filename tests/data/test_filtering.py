"""Loss maps, means, masks, bands and hashes with known values."""

import cv2
import numpy as np
import pytest
import torch

from dgkit.data.filtering import (
    boundary_band,
    class_means,
    doubtful,
    judge,
    near_duplicates,
    perceptual_hash,
)

ALL = np.arange(19, dtype=np.uint8)


def drawn(height: int = 12, width: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random logits [19,H,W] and labels with a strip of ignore."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 19, (height, width)).astype(np.uint8)
    label[:2] = 255
    return rng.normal(0, 3, (19, height, width)).astype(np.float32), label


def test_the_loss_is_the_cross_entropy_of_pytorch() -> None:
    logits, label = drawn()
    found = judge(logits, ALL, label)
    loss = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits)[None], torch.from_numpy(label.astype(np.int64))[None], reduction="none",
        ignore_index=255,
    )[0].numpy()  # fmt: skip
    known = label != 255
    assert np.allclose(found.loss[known], loss[known], atol=1e-5) and np.isnan(found.loss[~known]).all()
    for class_id in range(19):
        mine = known & (label == class_id)
        assert found.pixels[class_id] == mine.sum()
        assert found.losses[class_id] == pytest.approx(loss[mine].sum(), rel=1e-5)
    assert found.agreement == pytest.approx((logits.argmax(0) == label)[known].mean())
    assert found.mean_loss == pytest.approx(loss[known].mean(), rel=1e-5)


def test_channels_in_another_order_give_the_same_result() -> None:
    logits, label = drawn()
    order = np.random.default_rng(1).permutation(19)
    one, other = judge(logits, ALL, label), judge(logits[order], ALL[order], label)
    assert np.allclose(one.loss, other.loss, equal_nan=True, atol=1e-5) and one.agreement == other.agreement


def test_a_class_unknown_to_the_segmenter_is_not_compared() -> None:
    logits, label = drawn()
    kept = ALL[ALL != 13]
    found = judge(logits[kept], kept, label)
    assert np.array_equal(np.isnan(found.loss), (label == 13) | (label == 255))
    assert found.pixels[13] == 0 and np.isnan(class_means(found.pixels, found.losses)[13])
    assert not doubtful(label, found.loss, class_means(found.pixels, found.losses), 1e-9)[label == 13].any()


def test_a_label_of_ignore_only_has_no_agreement() -> None:
    logits, label = drawn()
    found = judge(logits, ALL, np.full_like(label, 255))
    assert found.agreement is None and found.mean_loss is None and found.pixels.sum() == 0


def test_large_logits_do_not_overflow() -> None:
    logits, label = drawn()
    assert np.isfinite(judge(logits * 1e4, ALL, label).loss[label != 255]).all()


def test_pixels_above_the_threshold_of_their_class_are_doubtful() -> None:
    label = np.array([[0, 0, 1, 1, 255]], np.uint8)
    loss = np.array([[1.25, 1.26, 5.0, 4.9, np.nan]], np.float32)
    means = np.full(19, np.nan)
    means[0], means[1] = 1.0, 3.99
    assert doubtful(label, loss, means, 1.25).tolist() == [[False, True, True, False, False]]


@pytest.mark.parametrize("width", [1, 3])
def test_the_band_lies_on_both_sides_of_a_border(width: int) -> None:
    label = np.zeros((20, 30), np.uint8)
    label[:, 15:] = 18
    label[10:, :] = 255  # next to ignore there is no band
    expected = np.zeros(label.shape, bool)
    expected[:10, 15 - width : 15 + width] = True
    assert np.array_equal(boundary_band(label, width), expected)
    assert not boundary_band(label, 0).any() and not boundary_band(np.full((9, 9), 7, np.uint8), 8).any()


def test_the_band_equals_a_search_around_each_pixel() -> None:
    rng = np.random.default_rng(3)
    label = np.kron(rng.choice([0, 1, 11, 255], (5, 6)), np.ones((4, 4))).astype(np.uint8)
    for width in (1, 2):
        expected = np.zeros(label.shape, bool)
        for y, x in np.argwhere(label != 255):
            window = label[max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1]
            expected[y, x] = ((window != 255) & (window != label[y, x])).any()
        assert np.array_equal(boundary_band(label, width), expected)


def test_hashes_of_similar_images_differ_in_few_bits() -> None:
    rng = np.random.default_rng(5)
    picture, other = (
        cv2.resize(rng.integers(40, 200, (12, 12, 3)).astype(np.uint8), (130, 130), interpolation=cv2.INTER_LINEAR)
        for _ in range(2)
    )
    noisy = np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)
    brighter = (picture + 20).astype(np.uint8)
    base = perceptual_hash(picture)
    assert base == perceptual_hash(picture.copy()) and 0 < base < 2**64
    assert max((base ^ perceptual_hash(p)).bit_count() for p in (noisy, brighter)) <= 6
    assert (base ^ perceptual_hash(other)).bit_count() > 16


def test_near_duplicates_refer_to_an_earlier_image_that_is_kept() -> None:
    # 3 is near 1, which is dropped as near 0, but not near 0 itself.
    far = 2**64 - 2**32
    hashes = [0b0, 0b11, far, 0b1111, far + 1]
    assert near_duplicates(hashes, 2) == [None, 0, None, None, 2]
    assert near_duplicates(hashes, 0) == [None] * 5
    assert near_duplicates([7, 7], 0) == [None, 0] and near_duplicates([], 3) == []
