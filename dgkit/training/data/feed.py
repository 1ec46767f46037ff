"""The interface of training data: a feed draws a crop with its label map and caption from a random generator.

A sample depends on the generator's state only. No feed keeps a position, so samples are the same in any order, from any
worker process and after a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from dgkit.data.crops import CropBox, anchor_box
from dgkit.errors import UsageError
from dgkit.training.data.captions import drop_words

Moments = tuple[np.ndarray, np.ndarray]
"""Mean and standard deviation of an autoencoder's posterior, float32 [C, s, s] each, before the scaling factor."""


@dataclass(frozen=True, eq=False)
class Example:
    """One crop of side S pixels; what a feed does not have is ``None``.

    ``image`` is uint8 [S, S, 3] RGB. ``latents`` have side s = S / factor; a cache without deviations gives zeros.
    ``label`` is uint8 [S, S], train ids 0..18 or 255. ``style`` is a word of ``dgkit.prompts.STYLES`` or "none".
    ``source`` names the file or scene in error messages. ``frame`` is height and width of the image before it was
    rescaled, and top and left of the crop in the rescaled image, in pixels.
    """

    image: np.ndarray | None
    latents: Moments | None
    label: np.ndarray | None
    caption: str
    style: str = "none"
    source: str = ""
    frame: tuple[int, int, int, int] | None = None


@runtime_checkable
class Feed(Protocol):
    """Draws examples; takes all randomness from ``rng`` and keeps no state between draws."""

    def draw(self, rng: np.random.Generator) -> Example:
        """Return one example."""
        ...


@dataclass(frozen=True)
class WholeImage:
    """An image that crops are cut from: rescaled, and at least as large as one crop.

    ``key`` changes whenever the pixels may have changed; ``read`` returns them, uint8 [H, W, 3] RGB.
    """

    key: str
    read: Callable[[], np.ndarray]


class LatentSource(Protocol):
    """Posterior moments of whole images."""

    @property
    def factor(self) -> int:
        """Pixels per latent cell."""
        ...

    def window(self, key: str, y: int, x: int, size: int) -> Moments:
        """Return the moments of a square of ``size`` pixels at (y, x), all multiples of ``factor``."""
        ...


@runtime_checkable
class CacheableFeed(Feed, Protocol):
    """A feed whose images can be encoded once, before the training."""

    def whole_images(self) -> Sequence[WholeImage]:
        """Return every whole image that a draw may cut from."""
        ...

    def with_latents(self, latents: LatentSource, pixels: bool = False) -> CacheableFeed:
        """Return the same feed with crops cut from ``latents`` on their grid; images are ``None`` unless ``pixels``."""
        ...


class MixedFeed:
    """Draws from several feeds by weight (numbers >= 0 with a sum > 0; equal by default)."""

    def __init__(self, feeds: Sequence[Feed], weights: Sequence[float] | None = None) -> None:
        shares = np.ones(len(feeds)) if weights is None else np.asarray(weights, dtype=np.float64)
        if not len(feeds) or shares.shape != (len(feeds),) or not np.isfinite(shares).all() or shares.min() < 0:
            raise UsageError(
                f"{len(feeds)} feeds cannot have the weights {weights}", "give one weight of 0 or more per feed"
            )
        if shares.sum() <= 0:
            raise UsageError("the weights of the data rows sum to 0", "give at least one row a weight above 0")
        self.feeds, self.shares = tuple(feeds), shares / shares.sum()

    def draw(self, rng: np.random.Generator) -> Example:
        """Return one example of a feed chosen by weight."""
        return self.feeds[int(rng.choice(len(self.feeds), p=self.shares))].draw(rng)

    def whole_images(self) -> Sequence[WholeImage]:
        """Return the whole images of all feeds."""
        return [image for feed in self.feeds for image in cacheable(feed).whole_images()]

    def with_latents(self, latents: LatentSource, pixels: bool = False) -> MixedFeed:
        """Return the same mix of feeds that cut from ``latents``."""
        return MixedFeed([cacheable(feed).with_latents(latents, pixels) for feed in self.feeds], self.shares.tolist())


class PromptDropout:
    """Empties a share ``empty`` of a feed's captions, for the unconditional half of guidance.

    Of the others a share ``thinned`` loses some of its class words (see ``captions.drop_words``). Both are drawn after
    the example from the same generator, so the crops are those of the feed without dropout.
    """

    def __init__(self, feed: Feed, empty: float, thinned: float = 0.0) -> None:
        if not (0 <= empty <= 1 and 0 <= thinned <= 1):
            raise UsageError(f"caption shares must be from 0 to 1, not {empty} and {thinned}", "use for example 0.1")
        self.feed, self.empty, self.thinned = feed, empty, thinned

    def draw(self, rng: np.random.Generator) -> Example:
        """Return one example, with its caption whole, thinned or empty."""
        example = self.feed.draw(rng)
        if rng.random() < self.empty:
            return replace(example, caption="")
        return replace(example, caption=drop_words(example.caption, rng)) if rng.random() < self.thinned else example

    def whole_images(self) -> Sequence[WholeImage]:
        """Return the whole images of the feed."""
        return cacheable(self.feed).whole_images()

    def with_latents(self, latents: LatentSource, pixels: bool = False) -> PromptDropout:
        """Return the same dropout on the feed that cuts from ``latents``."""
        return PromptDropout(cacheable(self.feed).with_latents(latents, pixels), self.empty, self.thinned)


def cacheable(feed: Feed) -> CacheableFeed:
    """Return ``feed`` itself. Raises :class:`UsageError` if its images cannot be encoded beforehand."""
    if not isinstance(feed, CacheableFeed):
        raise UsageError(f"{type(feed).__name__} has no whole images to encode", "train without cached latents")
    return feed


def describe_sample(feed: Feed, seed: int, index: int) -> str:
    """Return the file or scene that a task cuts sample ``index`` from, with one generator per (seed, index)."""
    return feed.draw(np.random.default_rng([seed, index])).source


def place_crop(
    shape: tuple[int, ...], size: int, grid: int, rng: np.random.Generator, anchor: tuple[int, int] | None = None
) -> CropBox:
    """Return a square of ``size`` pixels in a map of ``shape`` (height, width), its corner on multiples of ``grid``.

    With ``anchor`` (y, x) the square is centred there as far as border and grid allow, and ``rng`` is not used;
    otherwise its position is uniform.
    """
    height, width = (side // grid * grid for side in shape[:2])
    if anchor is not None:
        box = anchor_box(*anchor, height, width, size)
        return replace(box, x=box.x // grid * grid, y=box.y // grid * grid)
    y = int(rng.integers(max(0, height - size) // grid + 1)) * grid
    x = int(rng.integers(max(0, width - size) // grid + 1)) * grid
    return CropBox(x, y, size, size)


def check_grid(size: int, latents: LatentSource) -> int:
    """Return the factor of ``latents``. Raises :class:`UsageError` unless a crop of ``size`` pixels is whole cells."""
    if size % latents.factor:
        raise UsageError(
            f"crops of {size} pixels cannot be cut from latents with {latents.factor} pixels per cell",
            f"use a multiple of {latents.factor}",
        )
    return latents.factor
