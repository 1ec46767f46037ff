"""Pinhole camera above a gently bent and sloped road.

World axes: X right, Y up, Z forward, metres, origin on the road centre below the camera. Image coordinates are
in units of the image height, so one scene can be drawn at any resolution.
"""

from dataclasses import dataclass
from math import atan, cos, sin

import numpy as np

NEAR = 0.3  # metres; everything nearer is clipped
_STRAIGHT_FROM = 130.0  # metres; the bend is continued as a straight line from here on

Point = tuple[float, float, float]
"""World coordinates (x, y, z), metres."""


def translate(p: Point, by: Point) -> Point:
    """Return the point moved by a vector."""
    return (p[0] + by[0], p[1] + by[1], p[2] + by[2])


@dataclass(frozen=True)
class Road:
    """Centre line and height of the road: ``bend`` [1/m] and ``rise`` [1/m] are half curvatures, ``slope`` is m/m."""

    half_width: float
    bend: float = 0.0
    slope: float = 0.0
    rise: float = 0.0

    def centre(self, z: float) -> float:
        """Return the lateral position [m] of the centre line at ``z`` metres ahead."""
        return _parabola(self.bend, z)

    def height(self, z: float) -> float:
        """Return the height [m] of the ground at ``z`` metres ahead."""
        return self.slope * z + _parabola(self.rise, z)

    def at(self, lateral: float, z: float, up: float = 0.0) -> Point:
        """Return the world point ``lateral`` metres right of the centre line and ``up`` metres above the ground."""
        return (self.centre(z) + lateral, self.height(z) + up, z)

    def yaw(self, z: float) -> float:
        """Return the heading of the road at ``z``, radians, positive to the right."""
        return atan(2.0 * self.bend * max(0.0, min(z, _STRAIGHT_FROM)))


def _parabola(k: float, z: float) -> float:
    if z <= 0.0:
        return 0.0
    if z <= _STRAIGHT_FROM:
        return k * z * z
    return k * _STRAIGHT_FROM * (2.0 * z - _STRAIGHT_FROM)


@dataclass(frozen=True)
class Camera:
    """Position (metres), ``yaw`` and ``pitch`` (radians, right and down positive), ``focal`` in image heights."""

    x: float
    y: float
    yaw: float
    pitch: float
    focal: float

    def to_camera(self, p: Point) -> Point:
        """Convert a world point to camera coordinates (right, up, forward)."""
        dx, dy, dz = p[0] - self.x, p[1] - self.y, p[2]
        cy, sy, cp, sp = cos(self.yaw), sin(self.yaw), cos(self.pitch), sin(self.pitch)
        x, z = dx * cy - dz * sy, dx * sy + dz * cy
        return (x, dy * cp + z * sp, z * cp - dy * sp)

    def rotation(self) -> np.ndarray:
        """Return float64 [3, 3]: rows are the camera's right, up and forward directions in world axes."""
        cy, sy, cp, sp = cos(self.yaw), sin(self.yaw), cos(self.pitch), sin(self.pitch)
        return np.array([[cy, 0.0, -sy], [sy * sp, cp, cy * sp], [sy * cp, -sp, cy * cp]])

    def rays(self, height: int, width: int) -> np.ndarray:
        """Return float32 [H, W, 3]: the world direction through each pixel centre, 1 m long along the optical axis."""
        right = (np.arange(width) + 0.5 - width / 2) / (height * self.focal)
        up = (height / 2 - np.arange(height) - 0.5) / (height * self.focal)
        r = self.rotation().astype(np.float32)
        x, y = right.astype(np.float32)[None, :], up.astype(np.float32)[:, None]
        out = np.empty((height, width, 3), np.float32)
        for k in range(3):  # channel by channel: a last axis of 3 is slow
            out[..., k] = x * r[0, k] + y * r[1, k] + r[2, k]
        return out
