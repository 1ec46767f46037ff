"""Cover a mask with few windows: the cells that the second pass generates again.

The minimum cover is hard to find in general. Four heuristics are tried and the one with the fewest windows is used: a
grid without its empty windows, shelves filled from the left, shelves filled from the top, and greedily the fullest
window. Each result is then thinned, and its windows are centred on the cells that only they cover.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dgkit.diffusion.tiles import Windows, starts

MIN_SHARE = 0.01  # a window is dropped if it alone covers a smaller share of its cells
CENTRING_ROUNDS = 2  # if the first round makes a window redundant, the second moves its neighbours


class _Tile(NamedTuple):
    height: int
    width: int


Corners = list[tuple[int, int]]
_Heuristic = Callable[[np.ndarray, _Tile], Corners]


def cover_windows(need: np.ndarray, tile: int, smooth: bool = False) -> Windows:
    """Return windows of at most ``tile`` cells per side that cover the True cells of ``need``, bool [height, width].

    Isolated patches of less than :data:`MIN_SHARE` of a window stay uncovered, so there may be no window at all.
    """
    height, width = need.shape
    size = _Tile(min(tile, height), min(tile, width))
    heuristics: tuple[_Heuristic, ...] = (_grid, _shelves, _columns, _fullest)
    found = [_thinned(need, heuristic(need, size), size) for heuristic in heuristics]
    for _ in range(CENTRING_ROUNDS):
        found = [_centred(need, corners, size) for corners in found]
    best = min(found, key=lambda corners: (len(corners), -_held(need, corners, size)))
    return Windows(height, width, size.height, size.width, tuple(sorted(best)), smooth)


def covered(windows: Windows) -> np.ndarray:
    """Return bool [height, width]: the cells inside a window."""
    return _counted((windows.height, windows.width), list(windows.corners), _tile_of(windows)) > 0


def _tile_of(windows: Windows) -> _Tile:
    return _Tile(windows.tile_height, windows.tile_width)


def _grid(need: np.ndarray, tile: _Tile) -> Corners:
    rows, columns = starts(need.shape[0], tile.height, tile.height), starts(need.shape[1], tile.width, tile.width)
    return [(y, x) for y in rows for x in columns if _part(need, (y, x), tile).any()]


def _shelves(need: np.ndarray, tile: _Tile) -> Corners:
    """Fill rows of windows from the topmost cell down, each row from its leftmost cell."""
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
    """Drop windows that add too few cells, the emptiest first."""
    kept = list(corners)
    while kept:
        exclusive = [int(_exclusive(need, kept, corner, tile).sum()) for corner in kept]
        emptiest = int(np.argmin(exclusive))
        if exclusive[emptiest] >= max(1.0, MIN_SHARE * tile.height * tile.width):
            break
        kept.pop(emptiest)
    return kept


def _centred(need: np.ndarray, corners: Corners, tile: _Tile) -> Corners:
    """Move windows one by one so that the cells only they cover are in the middle; nothing becomes uncovered.

    A window that became redundant by the moves of others is dropped.
    """
    moved: Corners = []
    for index, (y, x) in enumerate(corners):
        rows, columns = np.nonzero(_exclusive(need, [*moved, *corners[index:]], (y, x), tile))
        if rows.size:
            top = _middle(y + int(rows.min()), y + int(rows.max()), tile.height, need.shape[0])
            left = _middle(x + int(columns.min()), x + int(columns.max()), tile.width, need.shape[1])
            moved.append((top, left))
    return moved


def _middle(first: int, last: int, tile: int, length: int) -> int:
    """Return the start of a window centred on the cells ``first`` to ``last``, which fit into it."""
    return min(max(0, (first + last + 1 - tile) // 2), length - tile)


def _exclusive(need: np.ndarray, corners: Corners, corner: tuple[int, int], tile: _Tile) -> np.ndarray:
    """Return bool of the window's shape: needed cells that no other window covers."""
    counts = _counted(need.shape, corners, tile)
    return _part(need, corner, tile) & (_part(counts, corner, tile) == 1)


def _held(need: np.ndarray, corners: Corners, tile: _Tile) -> int:
    """Return the number of needed cells over all windows; overlaps count repeatedly, because they hide edges."""
    return int(_counted(need.shape, corners, tile)[need].sum())


def _counted(shape: tuple[int, ...], corners: Corners, tile: _Tile) -> np.ndarray:
    counts = np.zeros(shape, np.int32)
    for corner in corners:
        _part(counts, corner, tile)[:] += 1
    return counts


def _part(array: np.ndarray, corner: tuple[int, int], tile: _Tile) -> np.ndarray:
    return array[corner[0] : corner[0] + tile.height, corner[1] : corner[1] + tile.width]
