"""Samples depend on the generator only, weights and caption dropout are kept, crops lie within bounds."""

import numpy as np
import pytest

from dgkit.errors import UsageError
from dgkit.training.data.feed import Example, Feed, MixedFeed, PromptDropout, cacheable, place_crop


class _Constant:
    """A feed whose examples contain the number that was drawn."""

    def __init__(self, name: str) -> None:
        self.name = name

    def draw(self, rng: np.random.Generator) -> Example:
        return Example(None, None, None, f"road car {self.name}", "none", str(rng.integers(2**40)))


def _draws(feed: Feed, count: int, seed: int = 0) -> list[Example]:
    return [feed.draw(np.random.default_rng([seed, i])) for i in range(count)]


def test_weights_are_shares_of_the_draws():
    feed = MixedFeed([_Constant("a"), _Constant("b"), _Constant("c")], [1, 0, 3])
    names = [example.caption[-1] for example in _draws(feed, 2000)]
    assert names.count("b") == 0
    assert names.count("c") / 2000 == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0], [1, float("nan")]])
def test_invalid_weights_are_refused(weights):
    with pytest.raises(UsageError):
        MixedFeed([_Constant("a"), _Constant("b")], weights)


def test_dropout_empties_a_share_of_the_captions_and_leaves_the_crops_alone():
    plain, dropping = _Constant("x"), PromptDropout(_Constant("x"), empty=0.3)
    before, after = _draws(plain, 2000), _draws(dropping, 2000)
    assert [example.source for example in before] == [example.source for example in after]
    empty = [example.caption == "" for example in after]
    assert np.mean(empty) == pytest.approx(0.3, abs=0.03)
    assert {example.caption for example in after} == {"", "road car x"}


def test_thinning_changes_its_share_of_the_other_captions():
    captions = [example.caption for example in _draws(PromptDropout(_Constant("x"), empty=0.0, thinned=0.5), 2000)]
    # Three words, each kept with a probability u uniform in [0, 1]: all three survive with probability 1/4.
    assert np.mean([caption == "road car x" for caption in captions]) == pytest.approx(0.5 + 0.5 / 4, abs=0.04)


def test_a_share_outside_0_to_1_is_refused():
    with pytest.raises(UsageError, match=r"1\.5"):
        PromptDropout(_Constant("x"), empty=1.5)


def test_only_feeds_of_whole_images_can_be_cached():
    with pytest.raises(UsageError, match="_Constant"):
        cacheable(MixedFeed([_Constant("a")]).feeds[0])


@pytest.mark.parametrize("grid", [1, 8])
def test_crops_lie_in_the_map_on_the_grid_and_reach_every_corner(grid):
    boxes = [place_crop((60, 83), 32, grid, np.random.default_rng([grid, i])) for i in range(4000)]
    rows, columns = {box.y for box in boxes}, {box.x for box in boxes}
    last_row, last_column = (60 // grid * grid - 32) // grid, (83 // grid * grid - 32) // grid
    assert rows == {grid * i for i in range(last_row + 1)}
    assert columns == {grid * i for i in range(last_column + 1)}


def test_a_crop_is_centred_on_its_anchor_as_far_as_border_and_grid_let_it():
    rng = np.random.default_rng(0)
    assert place_crop((100, 100), 32, 1, rng, (50, 60)) == place_crop((100, 100), 32, 1, rng, (50, 60))
    box = place_crop((100, 100), 32, 1, rng, (50, 60))
    assert (box.y, box.x) == (34, 44)
    for anchor in ((0, 0), (99, 99), (50, 61)):
        box = place_crop((100, 100), 32, 8, rng, anchor)
        assert box.x % 8 == box.y % 8 == 0
        assert 0 <= box.y <= 64
        assert box.y <= anchor[0]
    assert rng.random() == np.random.default_rng(0).random()  # the generator was not used


def test_a_map_smaller_than_the_crop_is_taken_whole():
    box = place_crop((20, 20), 32, 8, np.random.default_rng(0))
    assert (box.y, box.x, box.width, box.height) == (0, 0, 32, 32)
