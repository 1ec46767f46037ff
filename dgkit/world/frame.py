"""A local frame standing on the ground: everything upright is described in it."""

from math import cos, pi, sin

import numpy as np

from dgkit.world.camera import Point
from dgkit.world.canvas import RGB, Canvas

Flat = tuple[float, float]


class Frame:
    """Origin on the ground; ``yaw`` turns ``forward`` from +Z to the right. Local axes: right, up, forward [m]."""

    def __init__(self, origin: Point, yaw: float, scale: float = 1.0) -> None:
        self.origin, self.scale = origin, scale
        self.fx, self.fz = sin(yaw) * scale, cos(yaw) * scale

    def at(self, right: float, up: float, forward: float = 0.0) -> Point:
        """Local metres -> world point."""
        x, y, z = self.origin
        return (x + right * self.fz + forward * self.fx, y + up * self.scale, z - right * self.fx + forward * self.fz)

    def sheet(self, points: list[Flat], forward: float = 0.0) -> list[Point]:
        """(right, up) points on the upright plane at ``forward``."""
        return [self.at(r, u, forward) for r, u in points]

    def flank(self, right: float, points: list[Flat]) -> list[Point]:
        """(forward, up) points on the upright plane at ``right``."""
        return [self.at(right, u, f) for f, u in points]

    def end(self, forward: float, half: float, low: float, high: float, lean: float = 0.0) -> list[Point]:
        """A face across the frame seen from behind it (``half`` > 0) or from the front (``half`` < 0)."""
        a = self.at(half, low, forward), self.at(-half, low, forward)
        return [*a, self.at(-half, high, forward - lean), self.at(half, high, forward - lean)]

    def seen_from(self, x: float, z: float, right: float) -> bool:
        """Whether a viewer at (x, z) looks at the flank at ``right`` from outside."""
        px, _, pz = self.at(right, 0.0)
        return ((x - px) * self.fz - (z - pz) * self.fx) * right > 0.0

    def floor(self, left: float, right: float, back: float, front: float, up: float = 0.0) -> list[Point]:
        """A level rectangle."""
        return [self.at(left, up, back), self.at(right, up, back), self.at(right, up, front), self.at(left, up, front)]


def rect(left: float, right: float, low: float, high: float) -> list[Flat]:
    """A rectangle of sheet points."""
    return [(left, low), (right, low), (right, high), (left, high)]


def oval(r: float, u: float, a: float, b: float, n: int = 14) -> list[Flat]:
    """Ellipse around (r, u) with half axes (a, b)."""
    return [(r + a * cos(2 * pi * k / n), u + b * sin(2 * pi * k / n)) for k in range(n)]


def limb(p: Flat, q: Flat, wide: float, wide_end: float) -> list[Flat]:
    """A tapered bar from p to q with rounded far end."""
    dx, dy = q[0] - p[0], q[1] - p[1]
    n = (dx * dx + dy * dy) ** 0.5 or 1e-6
    dx, dy = dx / n, dy / n
    a, b = wide / 2, wide_end / 2
    return [
        (p[0] - dy * a, p[1] + dx * a),
        (q[0] - dy * b, q[1] + dx * b),
        (q[0] + dx * b * 0.8, q[1] + dy * b * 0.8),
        (q[0] + dy * b, q[1] - dx * b),
        (p[0] + dy * a, p[1] - dx * a),
        (p[0] - dx * a * 0.6, p[1] - dy * a * 0.6),
    ]


def shade(rgb: RGB, k: float) -> RGB:
    """Colour times ``k``, clipped to 0..255."""
    return (min(255.0, rgb[0] * k), min(255.0, rgb[1] * k), min(255.0, rgb[2] * k))


def mix(a: RGB, b: RGB, t: float) -> RGB:
    """Linear blend of two colours."""
    return (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t)


def vary(rgb: RGB, rng: np.random.Generator, amount: float = 0.12) -> RGB:
    """Colour with a random brightness and a slight random hue shift."""
    k = 1.0 + rng.uniform(-amount, amount)
    r, g, b = (
        min(max(c * k + s * 40, 0.0), 255.0) for c, s in zip(rgb, rng.uniform(-amount, amount, 3).tolist(), strict=True)
    )
    return (r, g, b)


def box(
    canvas: Canvas, frame: Frame, size: tuple[float, float, float], label: int, rgb: RGB, *, base: float = 0.0,
    right: float = 0.0, forward: float = 0.0, top: RGB | None = None, mat: int = 0, taper: float = 1.0
) -> None:  # fmt: skip
    """A box of (width, height, length), centred at (right, forward); ``taper`` narrows its top."""
    w, h, n = size[0] / 2, size[1], size[2] / 2
    corners = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    lo = [frame.at(right + s * w, base, forward + t * n) for s, t in corners]
    hi = [frame.at(right + s * w * taper, base + h, forward + t * n * taper) for s, t in corners]
    for i in range(4):
        j = (i + 1) % 4
        canvas.poly([lo[j], lo[i], hi[i], hi[j]], label, rgb, cull=True, mat=mat)
    canvas.poly([hi[3], hi[2], hi[1], hi[0]], label, top or rgb, cull=True, mat=mat)
