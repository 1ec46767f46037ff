"""Windows over a latent canvas: their positions, cutting tiles, and averaging the results.

The published code computes the number of windows by floor division, so that for some sizes no window covers the right
and bottom remainder (DGInStyle, tools/refine.py). Here the last window of each axis is clamped to the border. This
covers every cell, and changes nothing if the stride divides the remainder.
"""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dgkit.errors import UsageError

CPU = torch.device("cpu")
MIN_WEIGHT = 1e-6  # far below the smallest weight; divisor of a cell outside of every window


@dataclass(frozen=True)
class Windows:
    """Windows of equal size over a canvas of ``height`` x ``width`` cells; ``corners`` are (y, x), row by row.

    ``smooth``: cells near the edge of a window have a lower weight in the average.
    """

    height: int
    width: int
    tile_height: int
    tile_width: int
    corners: tuple[tuple[int, int], ...]
    smooth: bool = False

    def __len__(self) -> int:
        return len(self.corners)

    @property
    def whole(self) -> bool:
        """Whether there is one window that is the canvas."""
        return (self.tile_height, self.tile_width) == (self.height, self.width)

    def cut(self, canvas: Tensor) -> Tensor:
        """Cut [N, C, height, width] into [N * len(self), C, tile_height, tile_width], image by image."""
        if self.whole:
            return canvas
        tiles = [canvas[:, :, y : y + self.tile_height, x : x + self.tile_width] for y, x in self.corners]
        return torch.stack(tiles, dim=1).flatten(0, 1)

    def average(self, tiles: Tensor) -> Tensor:
        """Invert :meth:`cut`: each cell is the float32 weighted mean over the windows that contain it, else 0."""
        if self.whole:
            return tiles.float()
        tiles = tiles.unflatten(0, (-1, len(self))).float()
        if self.smooth:
            tiles = tiles * self.weights(tiles.device)
        total = tiles.new_zeros((tiles.shape[0], tiles.shape[2], self.height, self.width))
        # A loop in a fixed order: on a GPU a scatter would add in any order, and results would differ between runs.
        for index, (y, x) in enumerate(self.corners):
            total[:, :, y : y + self.tile_height, x : x + self.tile_width] += tiles[:, index]
        return total / self.counts(total.device).clamp(min=MIN_WEIGHT)

    def weights(self, device: torch.device = CPU) -> Tensor:
        """Return the weight of each cell of a window, float32 [tile_height, tile_width].

        It is 1, or for ``smooth`` the product of a squared sine in each direction.
        """
        return _weights(self.tile_height, self.tile_width, self.smooth, device)

    def counts(self, device: torch.device = CPU) -> Tensor:
        """Return the sum of the weights on each cell, float32 [height, width]."""
        return _counts(self, device)


# Cached on the device: a copy from the host at every step would wait for the device.
@functools.lru_cache(maxsize=64)
def _weights(height: int, width: int, smooth: bool, device: torch.device) -> Tensor:
    if not smooth:
        return torch.ones(height, width, device=device)
    return (_hill(height)[:, None] * _hill(width)[None, :]).to(device)


@functools.lru_cache(maxsize=256)
def _counts(windows: Windows, device: torch.device) -> Tensor:
    total, weights = torch.zeros(windows.height, windows.width), windows.weights()
    for y, x in windows.corners:
        total[y : y + windows.tile_height, x : x + windows.tile_width] += weights
    return total.to(device)


def _hill(length: int) -> Tensor:
    return torch.tensor([math.sin(math.pi * (place + 0.5) / length) ** 2 for place in range(length)])


def make_windows(height: int, width: int, tile: int, stride: int, smooth: bool = False) -> Windows:
    """Return windows of at most ``tile`` cells per side, ``stride`` apart, that cover the canvas. All in latent cells.

    Raises UsageError for a stride out of range.
    """
    if not 1 <= stride <= tile:
        raise UsageError(f"stride {stride}; allowed: 1 to the tile of {tile} latent cells", f"use {tile // 2}")
    tile_height, tile_width = min(tile, height), min(tile, width)
    rows, columns = starts(height, tile_height, stride), starts(width, tile_width, stride)
    return Windows(height, width, tile_height, tile_width, tuple((y, x) for y in rows for x in columns), smooth)


def starts(length: int, tile: int, stride: int) -> list[int]:
    """Return the first cells of windows of ``tile`` cells, ``stride`` apart, the last one clamped to ``length``."""
    found = list(range(0, length - tile + 1, stride))
    if found[-1] != length - tile:
        found.append(length - tile)
    return found
