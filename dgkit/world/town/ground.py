"""Road, markings, kerbs, pavements and verges, laid out in strips along the road."""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from dgkit.world.camera import Road
from dgkit.world.canvas import ASPHALT, GRASS, MARKING, PAVING, Canvas
from dgkit.world.classes import ROAD, SIDEWALK, TERRAIN
from dgkit.world.colour import RGB, shade
from dgkit.world.ranges import uniform
from dgkit.world.role import Palette

KERB = 0.14  # height of kerb and pavement, metres
WHITE: RGB = (236, 236, 230)  # of markings
# Ends of the strips, metres ahead.
_STEPS = (
    -4.0, 0.5, 1.5, 3.0, 4.5, 6.0, 8.0, 11.0, 15.0, 20.0, 26.0, 34.0, 44.0, 58.0, 76.0, 100.0, 132.0, 180.0, 260.0,
    420.0,
)  # fmt: skip


@dataclass(frozen=True)
class Roadside:
    """One side of the road, widths in metres: grass verge next to the kerb, pavement, whether lawns follow it."""

    verge: float
    pavement: float
    lawn: bool
    parking: float

    @property
    def width(self) -> float:
        """Distance from the kerb to the far edge of the pavement, metres."""
        return self.verge + self.pavement


class Crossroads(NamedTuple):
    """A crossing street: its edges in metres ahead, and on which sides it leaves (-1 left, 1 right)."""

    near: float
    far: float
    sides: tuple[int, ...]


@dataclass(frozen=True)
class Ground:
    """Everything flat: the road, both roadsides, crossings and markings."""

    road: Road
    sides: dict[int, Roadside]
    crossroads: Crossroads | None
    crossings: tuple[float, ...]  # zebra crossings, metres ahead
    lanes: tuple[int, int]  # left, right of the centre line
    centre: int  # 0 dashed, 1 solid, 2 double
    zebra: bool
    kerbed: bool = False  # whether the far edge of a crossing street has a kerb


def draw(canvas: Canvas, ground: Ground, palette: Palette, centre_paint: RGB, patches: np.random.Generator) -> None:
    """Draw the ground far to near."""
    cross = ground.crossroads
    steps = sorted({*_STEPS, *((cross.near, cross.far) if cross else ())})
    for near, far in reversed(list(pairwise(steps))):
        if ground.kerbed and cross and near == cross.far:
            _far_kerb(canvas, ground.road, cross, palette)
        _strip(canvas, ground, palette, near, far)
    _patches(canvas, ground, palette, patches)
    _markings(canvas, ground, centre_paint)


def _strip(canvas: Canvas, ground: Ground, palette: Palette, near: float, far: float) -> None:
    road, w = ground.road, ground.road.half_width
    for s in (-1, 1):
        side = ground.sides[s]
        cross = ground.crossroads
        if cross and s in cross.sides and near >= cross.near - 0.01 and far <= cross.far + 0.01:
            _flat(canvas, road, s * w, s * 120.0, near, far, ROAD, palette.road, ASPHALT)
            continue
        a, b = w + side.verge, w + side.width
        if side.lawn:
            _flat(canvas, road, s * b, s * 120.0, near, far, TERRAIN, palette.grass, GRASS, 0.03)
        else:
            _flat(canvas, road, s * b, s * (b + 9.0), near, far, SIDEWALK, shade(palette.paving, 0.93), PAVING, KERB)
            _flat(canvas, road, s * (b + 9.0), s * 120.0, near, far, TERRAIN, palette.grass, GRASS, 0.03)
        _flat(canvas, road, s * a, s * b, near, far, SIDEWALK, palette.paving, PAVING, KERB)
        if side.verge > 0:
            _flat(canvas, road, s * w, s * a, near, far, TERRAIN, palette.grass, GRASS, KERB)
        top = [
            road.at(s * w, near, KERB),
            road.at(s * (w + 0.22), near, KERB),
            road.at(s * (w + 0.22), far, KERB),
            road.at(s * w, far, KERB),
        ]
        canvas.poly(top, SIDEWALK, palette.kerb, mat=PAVING, snow=0.0)
        face = [road.at(s * w, near), road.at(s * w, far), road.at(s * w, far, KERB), road.at(s * w, near, KERB)]
        canvas.poly(face, SIDEWALK, shade(palette.kerb, 0.78), snow=0.2)
    _flat(canvas, road, -w, w, near, far, ROAD, palette.road, ASPHALT)


def _far_kerb(canvas: Canvas, road: Road, cross: Crossroads, palette: Palette) -> None:
    """Draw the kerb that closes a crossing street: without it the sky shows below the raised pavement."""
    w = road.half_width
    for s in cross.sides:
        face = [road.at(s * a, cross.far, up) for a, up in ((w, 0.0), (120.0, 0.0), (120.0, KERB), (w, KERB))]
        canvas.poly(face, SIDEWALK, shade(palette.kerb, 0.8), snow=0.2)


def _flat(
    canvas: Canvas, road: Road, a: float, b: float, near: float, far: float, label: int, rgb: RGB, mat: int,
    up: float = 0.0,
) -> None:  # fmt: skip
    """Draw a level quad from ``a`` to ``b`` metres right of the centre line and from ``near`` to ``far``."""
    points = [road.at(a, near, up), road.at(b, near, up), road.at(b, far, up), road.at(a, far, up)]
    canvas.poly(points, label, rgb, mat=mat, normal=(0.0, 1.0, 0.0), snow=0.0)


def _patches(canvas: Canvas, ground: Ground, palette: Palette, rng: np.random.Generator) -> None:
    """Draw repaired asphalt and manholes: faint structure on the road."""
    w = ground.road.half_width
    for _ in range(int(rng.integers(1, 6))):
        x, z = uniform(rng, -w + 0.8, w - 0.8), uniform(rng, 3, 40)
        a, n = uniform(rng, 0.4, 1.2), uniform(rng, 0.8, 5)
        rgb = shade(palette.road, uniform(rng, 0.84, 1.06))
        _flat(canvas, ground.road, x - a, x + a, z, z + n, ROAD, rgb, ASPHALT)
    for _ in range(int(rng.integers(0, 3))):
        x, z = uniform(rng, -w + 1, w - 1), uniform(rng, 4, 25)
        _flat(canvas, ground.road, x - 0.35, x + 0.35, z, z + 0.7, ROAD, shade(palette.road, 0.62), ASPHALT)


def _markings(canvas: Canvas, ground: Ground, centre_paint: RGB) -> None:
    w = ground.road.half_width
    left, right = -w + ground.sides[-1].parking, w - ground.sides[1].parking
    if ground.centre == 0:
        _line(canvas, ground, 0.0, 0.075, 3.0, 4.5, centre_paint)
    elif ground.centre == 1:
        _line(canvas, ground, 0.0, 0.08, 0.0, 0.0, centre_paint)
    else:
        _line(canvas, ground, -0.14, 0.06, 0.0, 0.0, centre_paint)
        _line(canvas, ground, 0.14, 0.06, 0.0, 0.0, centre_paint)
    for edge, lanes in ((left, ground.lanes[0]), (right, ground.lanes[1])):
        for k in range(1, lanes):
            _line(canvas, ground, edge * k / lanes, 0.07, 2.5, 5.0, WHITE)
        parked = abs(edge) < w - 0.1
        _line(canvas, ground, edge - np.sign(edge) * (0.0 if parked else 0.25), 0.06, 0.0, 0.0, shade(WHITE, 0.95))
    for z in ground.crossings:
        _crossing(canvas, ground, z, WHITE)


def _interrupted(ground: Ground, z: float) -> bool:
    """Return whether lines along the road are interrupted at ``z``."""
    cross = ground.crossroads
    if cross and cross.near - 1 < z < cross.far + 1:
        return True
    return any(c - 1.6 < z < c + 4.0 for c in ground.crossings)


def _line(canvas: Canvas, ground: Ground, x: float, half: float, dash: float, gap: float, rgb: RGB) -> None:
    """Draw a line along the road; ``dash`` 0 is a solid one, drawn in pieces that follow the bend."""
    z, stop = 0.4, 90.0
    while z < stop:
        n = dash or (2.0 if z < 20 else 6.0)
        if not _interrupted(ground, z) and not _interrupted(ground, z + n):
            points = [ground.road.at(x + s * half, q) for s, q in ((-1, z), (1, z), (1, z + n), (-1, z + n))]
            canvas.poly(points, ROAD, rgb, mat=MARKING, normal=(0.0, 1.0, 0.0), snow=0.0)
        z += n + gap


def _crossing(canvas: Canvas, ground: Ground, z: float, rgb: RGB) -> None:
    road, w = ground.road, ground.road.half_width
    if ground.zebra:
        x = -w + 0.4
        while x < w - 0.5:
            points = [road.at(a, b) for a, b in ((x, z), (x + 0.5, z), (x + 0.5, z + 3.0), (x, z + 3.0))]
            canvas.poly(points, ROAD, rgb, mat=MARKING, normal=(0.0, 1.0, 0.0), snow=0.0)
            x += 1.0
    else:
        for q in (z, z + 2.8):
            points = [
                road.at(a, b) for a, b in ((-w + 0.2, q), (w - 0.2, q), (w - 0.2, q + 0.25), (-w + 0.2, q + 0.25))
            ]
            canvas.poly(points, ROAD, rgb, mat=MARKING, normal=(0.0, 1.0, 0.0), snow=0.0)
    stop = [road.at(a, b) for a, b in ((0.2, z - 1.4), (w - 0.2, z - 1.4), (w - 0.2, z - 1.0), (0.2, z - 1.0))]
    canvas.poly(stop, ROAD, rgb, mat=MARKING, normal=(0.0, 1.0, 0.0), snow=0.0)
