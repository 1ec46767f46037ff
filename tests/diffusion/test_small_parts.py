"""Fusion masks, noise, images, prompts: the small pure parts of the sampler."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dgkit.diffusion.fusion import downscale, large_components
from dgkit.diffusion.noise import noise_seed, seeded_noise
from dgkit.diffusion.pipeline import one_hot
from dgkit.diffusion.pixels import resize, to_float, to_uint8
from dgkit.diffusion.prompt_length import fit_words


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
    label[:, :16] = 5  # 1/8 of the label, as 32768 px are of 512 x 512
    assert large_components(label, 32_767)[:, :16].all()
    assert not large_components(label, 32_768)[:, :16].any()


def test_mask_takes_every_fourth_pixel() -> None:
    mask = np.random.default_rng(0).random((512, 512)) < 0.5
    assert np.array_equal(downscale(mask, 128, 128), mask[::4, ::4])
    assert np.array_equal(downscale(mask[:6, :9], 4, 6), mask[:6, :9][np.ix_([0, 1, 3, 4], [0, 1, 3, 4, 6, 7])])


def test_noise_depends_on_seed_and_purpose_alone() -> None:
    first = seeded_noise(3, "pass1", (1, 4, 8, 8))
    state = torch.random.get_rng_state()
    seeded_noise(4, "pass1", (1, 4, 8, 8))
    assert torch.equal(seeded_noise(3, "pass1", (1, 4, 8, 8)), first)
    assert torch.equal(torch.random.get_rng_state(), state)  # the global generator is nobody's
    assert len({noise_seed(s, p) for s in range(50) for p in ("pass1", "pass2", "fuse/0", "fuse/10")}) == 200
    assert all(0 <= noise_seed(s, "bridge") < 2**63 for s in range(50))
    assert abs(float(seeded_noise(0, "x", (100_000,)).std()) - 1) < 0.02


def test_images_survive_the_way_through_floats() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(to_uint8(to_float(pixels)), pixels)
    extremes = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]).reshape(1, 1, 5).repeat(3, 1, 1)
    assert to_uint8(extremes)[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert resize(pixels, 10, 14).shape == (10, 14, 3) and resize(pixels, 5, 7) is pixels


def test_one_hot_has_ignore_as_channel_19() -> None:
    label = np.random.default_rng(0).choice([*range(19), 255], (9, 11)).astype(np.uint8)
    given = torch.from_numpy(label.copy())
    found = one_hot(given[None])[0]
    assert found.dtype == torch.float32 and set(found.unique().tolist()) == {0, 1}
    assert torch.equal(found.sum(0), torch.ones(9, 11))
    assert np.array_equal(found.argmax(0).numpy(), np.where(label == 255, 19, label))  # channel 19 is ignore
    assert np.array_equal(given.numpy(), label)


@pytest.mark.parametrize(
    ("prompt", "words", "expected", "shortened"),
    [
        ("road sky, in foggy weather.", 9, "road sky, in foggy weather.", False),
        ("road traffic light car, in foggy weather.", 6, "road traffic light, in foggy weather.", True),
        ("road traffic light, in foggy weather.", 5, "road, in foggy weather.", True),
        ("road sidewalk building", 2, "road sidewalk", True),
        (
            "A city street scene with road car, in snowy weather.",
            8,
            "A city street scene with, in snowy weather.",
            True,
        ),
        ("road car, in snowy weather.", 3, "in snowy weather.", True),
        ("", 0, "", False),
    ],
)
def test_prompts_lose_class_names_before_the_style(prompt: str, words: int, expected: str, shortened: bool) -> None:
    assert fit_words(prompt, lambda text: len(text.split()) <= words) == (expected, shortened)
