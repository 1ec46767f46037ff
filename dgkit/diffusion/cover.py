"""Few windows that hold everything that is to be redrawn.

A smallest set of windows is hard to find in general. Four simple ways are tried, and the one with the fewest windows
wins: a grid without its empty windows, shelves filled from the left or from the top, and always the fullest window.
Each is then thinned, and its windows moved so that what they alone hold lies in their middle.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dgkit.diffusion.tiles import Windows, starts

WORTH = 0.01  # share of a window's cells that it alone must hold to be worth its evaluations

ROUNDS = 2  # of moving: where the first leaves a window idle, the second gives its share to the others


class _Tile(NamedTuple):
    height: int
    width: int


Corners = list[tuple[int, int]]
_Way = Callable[[np.ndarray, _Tile], Corners]


def cover_windows(need: np.ndarray, tile: int, smooth: bool = False) -> Windows:
    """Windows of at most ``tile`` cells a side over the True cells of ``need``, bool [height, width].

    Patches of less than a hundredth of a window that no other window reaches are left out; none may be left.
    """
    height, width = need.shape
    size = _Tile(min(tile, height), min(tile, width))
    ways: tuple[_Way, ...] = (_grid, _shelves, _columns, _fullest)
    found = [_thinned(need, way(need, size), size) for way in ways]
    for _ in range(ROUNDS):
        found = [_centred(need, corners, size) for corners in found]
    best = min(found, key=lambda corners: (len(corners), -_held(need, corners, size)))
    return Windows(height, width, size.height, size.width, tuple(sorted(best)), smooth)


def covered(windows: Windows) -> np.ndarray:
    """Bool [height, width]: cells that lie in a window."""
    return _counted((windows.height, windows.width), list(windows.corners), _tile_of(windows)) > 0


def _tile_of(windows: Windows) -> _Tile:
    return _Tile(windows.tile_height, windows.tile_width)


def _grid(need: np.ndarray, tile: _Tile) -> Corners:
    rows, columns = starts(need.shape[0], tile.height, tile.height), starts(need.shape[1], tile.width, tile.width)
    return [(y, x) for y in rows for x in columns if _part(need, (y, x), tile).any()]


def _shelves(need: np.ndarray, tile: _Tile) -> Corners:
    """From the topmost cell down: rows of windows, each from its leftmost cell."""
    left, found = need.copy(), []
    while left.any():
        y = min(int(left.any(1).argmax()), need.shape[0] - tile.height)
        while left[y : y + tile.height].any():
            x = min(int(left[y : y + tile.height].any(0).argmax()), need.shape[1] - tile.width)
            found.append((y, x))
            _part(left, (y, x), tile)[:] = False
    return found


def _columns(need: np.ndarray, tile: _Tile) -> Corners:
    return [(y, x) for x, y in _shelves(need.T, _Tile(tile.width, tile.height))]


def _fullest(need: np.ndarray, tile: _Tile) -> Corners:
    left, found = need.copy(), []
    while left.any():
        sums = np.pad(left.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        inside = (
            sums[tile.height :, tile.width :]
            - sums[: -tile.height, tile.width :]
            - sums[tile.height :, : -tile.width]
            + sums[: -tile.height, : -tile.width]
        )
        y, x = divmod(int(inside.argmax()), inside.shape[1])
        found.append((y, x))
        _part(left, (y, x), tile)[:] = False
    return found


def _thinned(need: np.ndarray, corners: Corners, tile: _Tile) -> Corners:
    """Without the windows that alone hold too little, the emptiest first."""
    kept = list(corners)
    while kept:
        alone = [int(_alone(need, kept, corner, tile).sum()) for corner in kept]
        emptiest = int(np.argmin(alone))
        if alone[emptiest] >= max(1.0, WORTH * tile.height * tile.width):
            break
        kept.pop(emptiest)
    return kept


def _centred(need: np.ndarray, corners: Corners, tile: _Tile) -> Corners:
    """Each window moved, one after the other, so that what it alone holds is in its middle; nothing is uncovered.

    A window that holds nothing alone since others have moved is dropped.
    """
    moved: Corners = []
    for index, (y, x) in enumerate(corners):
        rows, columns = np.nonzero(_alone(need, [*moved, *corners[index:]], (y, x), tile))
        if rows.size:
            top = _middle(y + int(rows.min()), y + int(rows.max()), tile.height, need.shape[0])
            left = _middle(x + int(columns.min()), x + int(columns.max()), tile.width, need.shape[1])
            moved.append((top, left))
    return moved


def _middle(first: int, last: int, tile: int, length: int) -> int:
    """Start of a window around cells ``first`` to ``last``, which fit into it."""
    return min(max(0, (first + last + 1 - tile) // 2), length - tile)


def _alone(need: np.ndarray, corners: Corners, corner: tuple[int, int], tile: _Tile) -> np.ndarray:
    """Bool of the window's shape: needed cells that no other window holds."""
    counts = _counted(need.shape, corners, tile)
    return _part(need, corner, tile) & (_part(counts, corner, tile) == 1)


def _held(need: np.ndarray, corners: Corners, tile: _Tile) -> int:
    """Needed cells in windows, those in several counted once for each: overlap hides edges."""
    return int(_counted(need.shape, corners, tile)[need].sum())


def _counted(shape: tuple[int, ...], corners: Corners, tile: _Tile) -> np.ndarray:
    counts = np.zeros(shape, np.int32)
    for corner in corners:
        _part(counts, corner, tile)[:] += 1
    return counts


def _part(array: np.ndarray, corner: tuple[int, int], tile: _Tile) -> np.ndarray:
    return array[corner[0] : corner[0] + tile.height, corner[1] : corner[1] + tile.width]
