"""Local frames on the ground, in which upright objects are described, and the shapes that these are made of."""

from math import cos, pi, sin

from dgkit.world.camera import Point
from dgkit.world.canvas import Canvas
from dgkit.world.colour import RGB

Flat = tuple[float, float]
"""A point of a plane of the frame, metres."""


class Frame:
    """Local axes right, up and forward [m] at an origin on the ground; ``yaw`` turns forward from +Z to the right."""

    def __init__(self, origin: Point, yaw: float, scale: float = 1.0) -> None:
        self.origin, self.scale = origin, scale
        self.fx, self.fz = sin(yaw) * scale, cos(yaw) * scale

    def at(self, right: float, up: float, forward: float = 0.0) -> Point:
        """Convert local metres to a world point."""
        x, y, z = self.origin
        return (x + right * self.fz + forward * self.fx, y + up * self.scale, z - right * self.fx + forward * self.fz)

    def sheet(self, points: list[Flat], forward: float = 0.0) -> list[Point]:
        """Return the world points of (right, up) points on the upright plane at ``forward``."""
        return [self.at(r, u, forward) for r, u in points]

    def flank(self, right: float, points: list[Flat]) -> list[Point]:
        """Return the world points of (forward, up) points on the upright plane at ``right``."""
        return [self.at(right, u, f) for f, u in points]

    def end(self, forward: float, half: float, low: float, high: float, lean: float = 0.0) -> list[Point]:
        """Return a face across the frame, to be seen from behind (``half`` > 0) or from the front (``half`` < 0).

        ``half`` is half its width, ``low`` and ``high`` its heights; its top leans back by ``lean`` metres.
        """
        a = self.at(half, low, forward), self.at(-half, low, forward)
        return [*a, self.at(-half, high, forward - lean), self.at(half, high, forward - lean)]

    def seen_from(self, x: float, z: float, right: float) -> bool:
        """Return whether a viewer at (x, z) looks at the flank at ``right`` from outside."""
        px, _, pz = self.at(right, 0.0)
        return ((x - px) * self.fz - (z - pz) * self.fx) * right > 0.0

    def floor(self, left: float, right: float, back: float, front: float, up: float = 0.0) -> list[Point]:
        """Return a level rectangle, ``up`` metres above the ground."""
        return [self.at(left, up, back), self.at(right, up, back), self.at(right, up, front), self.at(left, up, front)]


def rect(left: float, right: float, low: float, high: float) -> list[Flat]:
    """Return the corners of a rectangle on a plane."""
    return [(left, low), (right, low), (right, high), (left, high)]


def oval(r: float, u: float, a: float, b: float, n: int = 14) -> list[Flat]:
    """Return ``n`` points of an ellipse around (r, u) with half axes (a, b)."""
    return [(r + a * cos(2 * pi * k / n), u + b * sin(2 * pi * k / n)) for k in range(n)]


def limb(p: Flat, q: Flat, wide: float, wide_end: float) -> list[Flat]:
    """Return a tapered bar from p to q with a rounded far end."""
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


def box(
    canvas: Canvas, frame: Frame, size: tuple[float, float, float], label: int, rgb: RGB, *, base: float = 0.0,
    right: float = 0.0, forward: float = 0.0, top: RGB | None = None, mat: int = 0, taper: float = 1.0
) -> None:  # fmt: skip
    """Draw a box of (width, height, length), centred at (right, forward); ``taper`` narrows its top."""
    w, h, n = size[0] / 2, size[1], size[2] / 2
    corners = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    lo = [frame.at(right + s * w, base, forward + t * n) for s, t in corners]
    hi = [frame.at(right + s * w * taper, base + h, forward + t * n * taper) for s, t in corners]
    for i in range(4):
        j = (i + 1) % 4
        canvas.poly([lo[j], lo[i], hi[i], hi[j]], label, rgb, cull=True, mat=mat)
    canvas.poly([hi[3], hi[2], hi[1], hi[0]], label, top or rgb, cull=True, mat=mat)
