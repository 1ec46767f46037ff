"""Windows over a latent canvas: where they lie, cutting them out, and averaging what comes back.

The published code counts windows by floor division and leaves the right and bottom remainder of some sizes in no
window (DGInStyle, tools/refine.py). Here the last window of each axis is clamped to the border, which changes nothing
where the stride divides the remainder and covers every cell everywhere else.
"""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dgkit.errors import UsageError

CPU = torch.device("cpu")
NOWHERE = 1e-6  # far below the smallest weight: what a cell that lies in no window is divided by


@dataclass(frozen=True)
class Windows:
    """Equal windows over a canvas of ``height`` x ``width`` cells; ``corners`` are (y, x), row-major, x fastest.

    ``smooth``: cells near the edge of a window count less in the average.
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
        """One window that is the canvas."""
        return (self.tile_height, self.tile_width) == (self.height, self.width)

    def cut(self, canvas: Tensor) -> Tensor:
        """[N, C, height, width] -> [N * len(self), C, tile_height, tile_width], windows of an image in a row."""
        if self.whole:
            return canvas
        tiles = [canvas[:, :, y : y + self.tile_height, x : x + self.tile_width] for y, x in self.corners]
        return torch.stack(tiles, dim=1).flatten(0, 1)

    def average(self, tiles: Tensor) -> Tensor:
        """Inverse of :meth:`cut`: each cell is the weighted float32 mean over the windows on it, 0 in none."""
        if self.whole:
            return tiles.float()
        tiles = tiles.unflatten(0, (-1, len(self))).float()
        if self.smooth:
            tiles = tiles * self.weights(tiles.device)
        total = tiles.new_zeros((tiles.shape[0], tiles.shape[2], self.height, self.width))
        # One addition a window in a fixed order: a scatter would sum in any order on a GPU, and so differ between runs.
        for index, (y, x) in enumerate(self.corners):
            total[:, :, y : y + self.tile_height, x : x + self.tile_width] += tiles[:, index]
        return total / self.counts(total.device).clamp(min=NOWHERE)

    def weights(self, device: torch.device = CPU) -> Tensor:
        """float32 [tile_height, tile_width] of a cell by place in a window: 1, or if smooth a squared sine each way."""
        return _weights(self.tile_height, self.tile_width, self.smooth, device)

    def counts(self, device: torch.device = CPU) -> Tensor:
        """float32 [height, width]: the sum of the weights on each cell."""
        return _counts(self, device)


# Kept on the device: a copy from the host, at every step of every image, would wait for all that the device has to do.
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
    """Windows of at most ``tile`` cells a side, ``stride`` cells apart, that cover the canvas. All in latent cells."""
    if not 1 <= stride <= tile:
        raise UsageError(f"stride {stride}; allowed: 1 to the tile of {tile} latent cells")
    tile_height, tile_width = min(tile, height), min(tile, width)
    rows, columns = starts(height, tile_height, stride), starts(width, tile_width, stride)
    return Windows(height, width, tile_height, tile_width, tuple((y, x) for y in rows for x in columns), smooth)


def starts(length: int, tile: int, stride: int) -> list[int]:
    """First cells of windows of ``tile`` cells, ``stride`` apart, the last one clamped to the end of ``length``."""
    found = list(range(0, length - tile + 1, stride))
    if found[-1] != length - tile:
        found.append(length - tile)
    return found
