"""The area that keeps the first pass."""

from __future__ import annotations

import numpy as np

from dgkit.diffusion.fusion import downscale, large_components


def test_components_join_diagonally_and_must_exceed_the_area() -> None:
    label = np.full((512, 512), 255, np.uint8)
    label[0:100, 0:100] = 13
    label[100:200, 100:200] = 13  # touches the first by a corner
    label[300:400, 300:400] = 13
    label[300:400, 400:500] = 14
    assert large_components(label, 10_000).sum() == 20_000
    assert large_components(label, 9_999).sum() == 40_000
    assert large_components(label, 20_000).sum() == 0


def test_ignore_is_never_kept() -> None:
    assert not large_components(np.full((512, 512), 255, np.uint8), 0).any()


def test_area_scales_with_the_label() -> None:
    label = np.zeros((64, 128), np.uint8)
    label[:, :16] = 5  # 1/8 of the label: 32768 px of 512 x 512
    assert large_components(label, 32_767)[:, :16].all()
    assert not large_components(label, 32_768)[:, :16].any()


def test_mask_takes_every_fourth_pixel() -> None:
    mask = np.random.default_rng(0).random((512, 512)) < 0.5
    assert np.array_equal(downscale(mask, 128, 128), mask[::4, ::4])
    assert np.array_equal(downscale(mask[:6, :9], 4, 6), mask[:6, :9][np.ix_([0, 1, 3, 4], [0, 1, 3, 4, 6, 7])])
