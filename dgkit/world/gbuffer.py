"""Per-pixel geometry of a finished canvas, and the noise that textures are made of."""

from functools import lru_cache

import cv2
import numpy as np

from dgkit.world.camera import Road
from dgkit.world.canvas import Canvas
from dgkit.world.classes import GROUND

_TILE = 256


@lru_cache(maxsize=16)
def noise_tile(seed: int, finest: int = 4, slope: float = 0.5) -> np.ndarray:
    """Return smooth tileable noise float32 [256, 256] of mean 0 and deviation 1.

    ``finest`` is the size of its smallest blob in cells; a negative ``slope`` makes small blobs the stronger ones.
    """
    rng = np.random.default_rng(seed)
    total = np.zeros((_TILE, _TILE), np.float32)
    cell = 64
    while cell >= finest:
        n = _TILE // cell
        coarse = np.pad(rng.standard_normal((n, n)).astype(np.float32), 2, mode="wrap")
        fine = cv2.resize(coarse, None, fx=cell, fy=cell, interpolation=cv2.INTER_CUBIC)
        total += fine[2 * cell : 2 * cell + _TILE, 2 * cell : 2 * cell + _TILE] * (cell / 64) ** slope
        cell //= 2
    return (total - total.mean()) / total.std()


def sample(tile: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sample the endlessly repeated tile at coordinates float [H, W] in cells."""
    x, y = x.astype(np.float32, copy=False), y.astype(np.float32, copy=False)
    return cv2.remap(tile, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def surface_numbers(canvas: Canvas) -> np.ndarray:
    """Return the number of the surface at each pixel of the final resolution, int32 [H, W]."""
    k = canvas.oversample
    return canvas.ids[k // 2 :: k, k // 2 :: k]


def label_map(canvas: Canvas) -> np.ndarray:
    """Return the label map of a finished canvas, uint8 [H, W], train ids 0..18 or 255."""
    return np.take(np.array(canvas.labels, np.uint8), surface_numbers(canvas))


class GBuffer:
    """Per-pixel geometry of a finished canvas at the final resolution; arrays are [H, W], lengths in metres."""

    def __init__(self, canvas: Canvas, road: Road) -> None:
        self.canvas, self.road = canvas, road
        self.ids = surface_numbers(canvas)
        self.label = label_map(canvas)
        self.rays = canvas.camera.rays(canvas.height, canvas.width)
        planes = np.array(canvas.planes, np.float32)
        inverse = sum(np.take(planes[:, k], self.ids) * self.rays[..., k] for k in range(3))
        self.sky = self.ids == 0
        self.depth = np.where(self.sky, 2000.0, 1.0 / np.clip(inverse, 1 / 1500.0, 4.0)).astype(np.float32)
        self.x = canvas.camera.x + self.rays[..., 0] * self.depth
        self.y = canvas.camera.y + self.rays[..., 1] * self.depth
        self.z = self.rays[..., 2] * self.depth
        extras = np.array(canvas.extras, np.float32)
        self.material = np.take(extras[:, 1].astype(np.uint8), self.ids)
        self.ground = np.isin(self.label, GROUND)
        z = np.clip(self.z, 0, 130.0)
        self.lateral = self.x - road.bend * z * (2 * np.maximum(self.z, 0) - z)
        self.above = self.y - (road.slope * self.z + road.rise * z * (2 * np.maximum(self.z, 0) - z))


def average(canvas: Canvas, table: np.ndarray) -> np.ndarray:
    """Appearance a uint8 [N, 4] table up for every sample and average the samples of a pixel."""
    picked = np.take(table.view(np.uint32).ravel(), canvas.ids).view(np.uint8).reshape(*canvas.ids.shape, 4)
    if canvas.oversample == 1:
        return picked.astype(np.float32)
    small = cv2.resize(picked, (canvas.width, canvas.height), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32)
