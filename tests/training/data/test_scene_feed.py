"""Crops of rendered scenes show one window in image, label and latents."""

import numpy as np
import pytest

from dgkit.errors import UsageError
from dgkit.training.data.feed import Example
from dgkit.training.data.rendered_scenes import SceneCache
from dgkit.training.data.scene_feed import SceneFeed

SIZE, FACTOR, TRAIN = 32, 8, 16
PROMPT = "A city street scene with road train, in rainy weather."


def _cache(scenes: int, height: int) -> tuple[SceneCache, np.ndarray]:
    """Images hold pixel coordinates, latents cell coordinates; labels are (cell row + column) % 5 and one train."""
    rows, columns = np.mgrid[:height, : 2 * height]
    images = np.broadcast_to(np.stack([rows, columns, 0 * rows], -1).astype(np.uint8), (scenes, height, 2 * height, 3))
    labels = np.broadcast_to(((rows // FACTOR + columns // FACTOR) % 5).astype(np.uint8), (scenes, *rows.shape)).copy()
    labels[0, -24:, -40:] = TRAIN
    cells = np.stack([rows, columns])[:, ::FACTOR, ::FACTOR] // FACTOR
    return SceneCache(images, labels, (PROMPT,) * scenes), np.broadcast_to(cells, (scenes, *cells.shape)).astype(
        np.float16
    )


def _draws(feed: SceneFeed, count: int) -> list[Example]:
    return [feed.draw(np.random.default_rng([1, i])) for i in range(count)]


@pytest.mark.parametrize("rare", [0.0, 0.7])
def test_image_label_and_latents_show_the_same_window(rare):
    (near, near_latents), (far, far_latents) = _cache(3, 64), _cache(2, 128)
    feed = SceneFeed([near, far], SIZE, shares=(0.5, 0.5), rare_share=rare, latents=[near_latents, far_latents])
    corners = set()
    for example in _draws(feed, 60):
        mean, std = example.latents
        assert mean.shape == (2, SIZE // FACTOR, SIZE // FACTOR) and mean.dtype == np.float32
        assert not std.any()
        assert np.array_equal(mean * FACTOR, np.moveaxis(example.image[::FACTOR, ::FACTOR, :2], -1, 0))
        cells = example.label[::FACTOR, ::FACTOR]
        assert np.array_equal(np.where(cells == TRAIN, TRAIN, mean.sum(0) % 5), cells)
        corners.add(tuple(example.image[0, 0, :2]))
    assert len(corners) > 5


def test_crops_without_latents_lie_anywhere():
    corners = {tuple(e.image[0, 0, :2]) for e in _draws(SceneFeed([_cache(3, 64)[0]], SIZE), 200)}
    assert any(y % FACTOR for y, _ in corners) and any(x % FACTOR for _, x in corners)


def test_caches_are_drawn_by_share_or_by_their_number_of_scenes():
    near, far = (
        _cache(6, 64)[0],
        SceneCache(*[getattr(_cache(2, 64)[0], n) for n in ("images", "labels", "captions")], None, "far"),
    )
    for shares, expected in ((None, 0.25), ((0.1, 0.9), 0.9)):
        sources = [e.source for e in _draws(SceneFeed([near, far], SIZE, shares=shares), 800)]
        assert np.mean([source.startswith("far") for source in sources]) == pytest.approx(expected, abs=0.05)


def test_rare_class_sampling_shows_the_rare_class_far_more_often():
    cache, _ = _cache(6, 64)
    shares = [
        np.mean([(e.label == TRAIN).mean() for e in _draws(SceneFeed([cache], SIZE, rare_share=r), 200)])
        for r in (0, 1)
    ]
    assert shares[1] > 3 * shares[0]


def test_captions_name_the_classes_of_the_scene_or_of_the_crop():
    cache, _ = _cache(3, 64)
    assert {e.caption for e in _draws(SceneFeed([cache], SIZE), 20)} == {PROMPT}
    cropped = _draws(SceneFeed([cache], SIZE, captions="crop"), 60)
    assert {e.style for e in cropped} == {"rainy"}
    assert all(("train" in e.caption) == (TRAIN in e.label) for e in cropped)
    assert all(e.caption.endswith(", in rainy weather.") for e in cropped)


def test_mirrored_crops_mirror_image_and_label():
    cache, _ = _cache(3, 64)
    plain, mirrored = _draws(SceneFeed([cache], SIZE), 20), _draws(SceneFeed([cache], SIZE, flip=1.0), 20)
    for a, b in zip(plain, mirrored, strict=True):
        assert np.array_equal(a.image[:, ::-1], b.image) and np.array_equal(a.label[:, ::-1], b.label)


def test_settings_that_cannot_be_combined_are_refused():
    cache, latents = _cache(3, 64)
    for settings in ({"flip": 0.5, "latents": [latents]}, {"shares": (1, 1)}):
        with pytest.raises(UsageError):
            SceneFeed([cache], SIZE, **settings)
    with pytest.raises(UsageError, match="65"):
        SceneFeed([cache], 65)
    with pytest.raises(UsageError, match="whole latent cells"):
        SceneFeed([cache], 20, latents=[latents])
