"""Where training samples come from: a feed draws one crop, its label map and its caption from a random generator.

A sample is a function of the generator's state alone: no feed keeps a position, so samples may be drawn in any order,
by any number of worker processes, and again after a restart, and are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from dgkit.data.crops import CropBox, anchor_box
from dgkit.errors import UsageError
from dgkit.training.data.captions import thin

Moments = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Example:
    """One crop of side S pixels.

    ``image`` is uint8 [S, S, 3] RGB. ``latents`` are mean and standard deviation of the autoencoder's posterior,
    float32 [C, s, s] each, s = S / factor, before the scaling factor; a cache without deviations gives zeros.
    ``label`` is uint8 [S, S], train ids 0..18 or 255. What a feed does not have is ``None``. ``style`` is a word of
    ``dgkit.prompts.STYLES`` or "none"; ``source`` names the file or scene for error messages.
    """

    image: np.ndarray | None
    latents: Moments | None
    label: np.ndarray | None
    caption: str
    style: str = "none"
    source: str = ""


@runtime_checkable
class Feed(Protocol):
    """Draws examples; takes everything random from ``rng`` and keeps no state between draws."""

    def draw(self, rng: np.random.Generator) -> Example:
        """One example."""
        ...


@dataclass(frozen=True)
class Picture:
    """A whole image as its feed crops it: rescaled, at least one crop large.

    ``key`` changes whenever the pixels may have; ``read`` returns them, uint8 [H, W, 3] RGB.
    """

    key: str
    read: Callable[[], np.ndarray]


class Latents(Protocol):
    """Posterior moments of whole pictures."""

    @property
    def factor(self) -> int:
        """Pixels per latent cell."""
        ...

    def window(self, key: str, y: int, x: int, size: int) -> Moments:
        """Mean and standard deviation, float32 [C, s, s], of a square of ``size`` pixels; all multiples of factor."""
        ...


@runtime_checkable
class CacheableFeed(Feed, Protocol):
    """A feed whose images can be encoded once for all."""

    def pictures(self) -> Sequence[Picture]:
        """Every whole image that a draw may cut from."""
        ...

    def with_latents(self, latents: Latents, pixels: bool = False) -> CacheableFeed:
        """The same feed cutting from ``latents`` on their grid; images stay ``None`` unless ``pixels``."""
        ...


class MixedFeed:
    """Draws from one of several feeds, by weight (numbers >= 0 of any sum > 0; equal if left out)."""

    def __init__(self, feeds: Sequence[Feed], weights: Sequence[float] | None = None) -> None:
        shares = np.ones(len(feeds)) if weights is None else np.asarray(weights, dtype=np.float64)
        if not len(feeds) or shares.shape != (len(feeds),) or not np.isfinite(shares).all() or shares.min() < 0:
            raise UsageError(f"{len(feeds)} feeds with weights {weights} are not allowed", "give one weight per feed")
        if shares.sum() <= 0:
            raise UsageError("the weights of the data rows sum to 0", "give at least one row a weight above 0")
        self.feeds, self.shares = tuple(feeds), shares / shares.sum()

    def draw(self, rng: np.random.Generator) -> Example:
        return self.feeds[int(rng.choice(len(self.feeds), p=self.shares))].draw(rng)

    def pictures(self) -> Sequence[Picture]:
        return [picture for feed in self.feeds for picture in cacheable(feed).pictures()]

    def with_latents(self, latents: Latents, pixels: bool = False) -> MixedFeed:
        return MixedFeed([cacheable(feed).with_latents(latents, pixels) for feed in self.feeds], self.shares.tolist())


class PromptDropout:
    """Empties a share ``empty`` of a feed's captions, for the unconditional half of guidance.

    Of the rest a share ``thinned`` loses some of its class words (see ``captions.thin``). Both are drawn after the
    example, from the same generator, so the crops are those of the feed without dropout.
    """

    def __init__(self, feed: Feed, empty: float, thinned: float = 0.0) -> None:
        if not (0 <= empty <= 1 and 0 <= thinned <= 1):
            raise UsageError(f"caption shares {empty} and {thinned} are not allowed: 0 to 1", "use for example 0.1")
        self.feed, self.empty, self.thinned = feed, empty, thinned

    def draw(self, rng: np.random.Generator) -> Example:
        example = self.feed.draw(rng)
        if rng.random() < self.empty:
            return replace(example, caption="")
        return replace(example, caption=thin(example.caption, rng)) if rng.random() < self.thinned else example

    def pictures(self) -> Sequence[Picture]:
        return cacheable(self.feed).pictures()

    def with_latents(self, latents: Latents, pixels: bool = False) -> PromptDropout:
        return PromptDropout(cacheable(self.feed).with_latents(latents, pixels), self.empty, self.thinned)


def cacheable(feed: Feed) -> CacheableFeed:
    """``feed`` itself. Raises :class:`UsageError` if its images cannot be encoded beforehand."""
    if not isinstance(feed, CacheableFeed):
        raise UsageError(f"{type(feed).__name__} has no whole images to encode", "train without cached latents")
    return feed


def place(
    shape: tuple[int, ...], size: int, grid: int, rng: np.random.Generator, anchor: tuple[int, int] | None = None
) -> CropBox:
    """A square of ``size`` pixels in a map of ``shape`` (height, width), its corner a multiple of ``grid``.

    Centred on ``anchor`` (y, x) as far as border and grid allow, which takes nothing from ``rng``, else uniform.
    """
    height, width = (side // grid * grid for side in shape[:2])
    if anchor is not None:
        box = anchor_box(*anchor, height, width, size)
        return replace(box, x=box.x // grid * grid, y=box.y // grid * grid)
    y = int(rng.integers(max(0, height - size) // grid + 1)) * grid
    x = int(rng.integers(max(0, width - size) // grid + 1)) * grid
    return CropBox(x, y, size, size)


def check_grid(size: int, latents: Latents) -> int:
    """The factor of ``latents``. Raises :class:`UsageError` unless a crop of ``size`` pixels is whole cells."""
    if size % latents.factor:
        raise UsageError(
            f"crops of {size} pixels cannot be cut from latents of {latents.factor} pixels per cell",
            f"use a multiple of {latents.factor}",
        )
    return latents.factor
