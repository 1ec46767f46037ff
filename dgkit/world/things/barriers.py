"""Walls, fences and hedges between two ground points."""

import numpy as np

from dgkit.world.camera import Point, translate
from dgkit.world.canvas import BRICK, FOLIAGE, Canvas
from dgkit.world.classes import FENCE, VEGETATION, WALL
from dgkit.world.colour import RGB, shade


def _faces(a: Point, b: Point, height: float, thick: Point) -> tuple[list[Point], list[Point], list[Point]]:
    """Return street side, near end and top of a slab."""
    up = (0.0, height, 0.0)
    a2, b2 = translate(a, thick), translate(b, thick)
    street = [a, b, translate(b, up), translate(a, up)]
    return (
        street,
        [a, a2, translate(a2, up), translate(a, up)],
        [translate(a, up), translate(b, up), translate(b2, up), translate(a2, up)],
    )


def wall(canvas: Canvas, a: Point, b: Point, height: float, rgb: RGB, thick: Point) -> None:
    """Draw a wall from a to b; ``thick`` is the vector from its near to its far face."""
    street, end, top = _faces(a, b, height, thick)
    canvas.poly(street, WALL, rgb, mat=BRICK)
    canvas.poly(end, WALL, shade(rgb, 0.92), mat=BRICK)
    canvas.poly(top, WALL, shade(rgb, 1.12), snow=1.0)
    lip = (0.0, height - 0.14, 0.0)
    canvas.poly([translate(a, lip), translate(b, lip), street[2], street[3]], WALL, shade(rgb, 1.15), snow=0.7)


def hedge(canvas: Canvas, a: Point, b: Point, height: float, leaf: RGB, thick: Point) -> None:
    """Draw a clipped hedge from a to b; ``thick`` as for :func:`wall`."""
    street, end, top = _faces(a, b, height, thick)
    canvas.poly(street, VEGETATION, shade(leaf, 0.8), mat=FOLIAGE, snow=0.15)
    canvas.poly(end, VEGETATION, shade(leaf, 0.72), mat=FOLIAGE, snow=0.1)
    canvas.poly(top, VEGETATION, shade(leaf, 1.1), mat=FOLIAGE, snow=1.0)


def fence(canvas: Canvas, a: Point, b: Point, height: float, rgb: RGB, kind: int) -> None:
    """Draw a fence from a to b; ``kind``: 0 boards, 1 pickets with gaps, 2 guard rail, 3 mesh between posts."""
    p, q = np.array(a), np.array(b)
    length = float(np.linalg.norm(q - p))

    def bars(every: float, wide: float, low: float, high: float, tone: float, snow: float = 0.0) -> None:
        t0 = np.arange(0.0, 1.0, every / length)
        t1 = np.minimum(1.0, t0 + wide / length)
        x, y = p + (q - p) * t0[:, None], p + (q - p) * t1[:, None]
        down, up = np.array([0.0, low, 0.0]), np.array([0.0, high, 0.0])
        canvas.quads(np.stack([x + down, y + down, y + up, x + up], 1), FENCE, shade(rgb, tone), snow=snow)

    def sheet(tone: float) -> None:
        canvas.poly(
            [a, b, translate(b, (0.0, height, 0.0)), translate(a, (0.0, height, 0.0))],
            FENCE,
            shade(rgb, tone),
            snow=0.1,
        )

    def rail(low: float, high: float, tone: float, snow: float) -> None:
        bars(length / 6, length / 6, low, high, tone, snow)

    if kind == 0:
        sheet(1.0)
        bars(0.9, 0.06, 0.0, height, 0.72)
        rail(height * 0.93, height * 0.93 + 0.1, 0.9, 0.6)
    elif kind == 1:
        bars(0.34, 0.19, 0.0, height, 1.0, 0.1)
        for y in (height * 0.25, height * 0.8):
            rail(y, y + 0.1, 0.9, 0.6)
    elif kind == 2:
        bars(2.0, 0.12, 0.0, height * 0.6, 0.7)
        rail(height * 0.42, height * 0.72, 1.0, 0.1)
        rail(height * 0.54, height * 0.6, 0.75, 0.0)
    else:
        sheet(0.8)
        bars(2.2, 0.12, 0.0, height + 0.1, 0.55)
        rail(height * 0.93, height * 0.93 + 0.1, 0.9, 0.6)
