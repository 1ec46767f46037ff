"""Windows over a latent canvas: where they lie, cutting them out, and averaging what comes back.

The published code counts windows by floor division and leaves the right and bottom remainder of some sizes in no
window (DGInStyle, tools/refine.py). Here the last window of each axis is clamped to the border, which changes nothing
where the stride divides the remainder and covers every cell everywhere else.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dgkit.errors import UsageError


@dataclass(frozen=True)
class Windows:
    """Equal windows over a canvas of ``height`` x ``width`` cells; ``corners`` are (y, x), row-major, x fastest."""

    height: int
    width: int
    tile_height: int
    tile_width: int
    corners: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.corners)

    def cut(self, canvas: Tensor) -> Tensor:
        """[N, C, height, width] -> [N * len(self), C, tile_height, tile_width], windows of an image in a row."""
        if len(self) == 1:
            return canvas
        tiles = [canvas[:, :, y : y + self.tile_height, x : x + self.tile_width] for y, x in self.corners]
        return torch.stack(tiles, dim=1).flatten(0, 1)

    def average(self, tiles: Tensor) -> Tensor:
        """Inverse of :meth:`cut` with weight 1 everywhere: each cell is the float32 mean over the windows on it."""
        if len(self) == 1:
            return tiles.float()
        tiles = tiles.unflatten(0, (-1, len(self))).float()
        total = tiles.new_zeros((tiles.shape[0], tiles.shape[2], self.height, self.width))
        # One addition a window in a fixed order: a scatter would sum in any order on a GPU, and so differ between runs.
        for index, (y, x) in enumerate(self.corners):
            total[:, :, y : y + self.tile_height, x : x + self.tile_width] += tiles[:, index]
        return total / self.counts().to(total.device)

    def counts(self) -> Tensor:
        """float32 [height, width]: the number of windows on each cell, at least 1."""
        rows, columns = torch.zeros(self.height), torch.zeros(self.width)
        for y in {y for y, _ in self.corners}:
            rows[y : y + self.tile_height] += 1
        for x in {x for _, x in self.corners}:
            columns[x : x + self.tile_width] += 1
        return rows[:, None] * columns[None, :]


def make_windows(height: int, width: int, tile: int, stride: int) -> Windows:
    """Windows of at most ``tile`` cells a side, ``stride`` cells apart, that cover the canvas. All in latent cells."""
    if not 1 <= stride <= tile:
        raise UsageError(f"stride {stride}; allowed: 1 to the tile of {tile} latent cells")
    tile_height, tile_width = min(tile, height), min(tile, width)
    rows, columns = _starts(height, tile_height, stride), _starts(width, tile_width, stride)
    return Windows(height, width, tile_height, tile_width, tuple((y, x) for y in rows for x in columns))


def _starts(length: int, tile: int, stride: int) -> list[int]:
    starts = list(range(0, length - tile + 1, stride))
    if starts[-1] != length - tile:
        starts.append(length - tile)
    return starts
