"""Batches are functions of the seed, latents and labels show the same window, rare classes are found."""

import numpy as np
import torch

from dgkit.diffusion.pipeline import one_hot
from dgkit.training.batches import LatentCache, Sampler, thin
from dgkit.training.scenes import SceneCache

TILE, FACTOR = 4, 8


def _cache(scenes: int, height: int) -> LatentCache:
    """Latents hold their own cell coordinates, labels hold (cell row + cell column) % 5, one scene has a train."""
    h, w = height // FACTOR, 2 * height // FACTOR
    rows, columns = np.mgrid[:h, :w]
    latents = np.broadcast_to(np.stack([rows, columns]).astype(np.float16), (scenes, 2, h, w)).copy()
    labels = ((rows + columns) % 5).astype(np.uint8).repeat(FACTOR, 0).repeat(FACTOR, 1)
    labels = np.broadcast_to(labels, (scenes, *labels.shape)).copy()
    labels[0, -24:, -40:] = 16
    images = np.zeros((*labels.shape, 3), np.uint8)
    return LatentCache(SceneCache(images, labels, ("road car",) * scenes), latents)


def test_latents_and_labels_show_the_same_window():
    sampler = Sampler([_cache(3, 64), _cache(2, 128)], TILE, zoom2_share=0.5)
    picks = [sampler.pick(np.random.default_rng(i)) for i in range(40)]
    latents, labels = sampler.latents(picks).numpy(), sampler.labels(picks)
    assert {p.cache for p in picks} == {0, 1}
    cells = labels[:, ::FACTOR, ::FACTOR]
    expected = (latents[:, 0] + latents[:, 1]) % 5
    assert np.array_equal(np.where(cells == 16, 16, expected), cells)


def test_a_pick_is_a_function_of_the_seed():
    sampler = Sampler([_cache(3, 64)], TILE, zoom2_share=0.3, rare_class=0.5)
    first = [sampler.pick(np.random.default_rng([7, i])) for i in range(20)]
    assert first == [sampler.pick(np.random.default_rng([7, i])) for i in range(20)]


def test_rare_class_sampling_shows_the_rare_class_far_more_often():
    def share(rare: float) -> float:
        sampler = Sampler([_cache(6, 64)], TILE, zoom2_share=0.0, rare_class=rare)
        picks = [sampler.pick(np.random.default_rng([1, i])) for i in range(200)]
        return float((sampler.labels(picks) == 16).mean())

    assert share(1.0) > 3 * share(0.0)


def test_thinning_keeps_frame_and_style_words():
    caption = "A city street scene with road building traffic light car, in snowy weather."
    thinned = [thin(caption, np.random.default_rng(i)) for i in range(30)]
    assert all(t.startswith("A city street scene with") and t.endswith(", in snowy weather .") for t in thinned)
    assert len({len(t.split()) for t in thinned}) > 3


def test_one_hot_maps_ignore_to_channel_19_and_keeps_its_input():
    labels = np.array([[[0, 18], [255, 7]]], np.uint8)
    kept = labels.copy()
    encoded = one_hot(torch.from_numpy(labels))
    assert encoded.shape == (1, 20, 2, 2)
    assert encoded[0, :, 1, 0].argmax() == 19
    assert encoded.sum(1).unique().tolist() == [1.0]
    assert np.array_equal(labels, kept)
