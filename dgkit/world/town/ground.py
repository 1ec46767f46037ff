"""Road, markings, kerbs, pavements and verges, laid out in strips along the road."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dgkit.world.camera import Road
from dgkit.world.canvas import GRASS, MARKING, PAVING, RGB, ROAD, Canvas
from dgkit.world.frame import shade
from dgkit.world.role import Palette

ROAD_ID, SIDEWALK, TERRAIN = 0, 1, 9
_STEPS = (
    -4.0,
    0.5,
    1.5,
    3.0,
    4.5,
    6.0,
    8.0,
    11.0,
    15.0,
    20.0,
    26.0,
    34.0,
    44.0,
    58.0,
    76.0,
    100.0,
    132.0,
    180.0,
    260.0,
    420.0,
)
_KERB = 0.14


@dataclass(frozen=True)
class Side:
    """Widths beside the road: grass verge next to the kerb, pavement, and whether lawns follow it."""

    verge: float
    pavement: float
    lawn: bool
    parking: float

    @property
    def width(self) -> float:
        return self.verge + self.pavement


@dataclass(frozen=True)
class Ground:
    """Everything flat. ``crossroads`` is (near, far) of a crossing street and the sides it has, or None."""

    road: Road
    sides: dict[int, Side]
    crossroads: tuple[float, float, tuple[int, ...]] | None
    crossings: tuple[float, ...]  # zebra crossings, metres ahead
    lanes: tuple[int, int]  # left, right of the centre line
    centre: int  # 0 dashed, 1 solid, 2 double
    zebra: bool
    kerbed: bool = False  # whether the far edge of a crossing street has a kerb


def draw(canvas: Canvas, ground: Ground, palette: Palette, centre_paint: RGB, patches: np.random.Generator) -> None:
    """Draw the ground far to near."""
    extra = list(ground.crossroads[:2]) if ground.crossroads else []
    steps = sorted({*_STEPS, *extra})
    for near, far in reversed(list(pairwise(steps))):
        if ground.kerbed and ground.crossroads and near == ground.crossroads[1]:
            _far_kerb(canvas, ground, palette, near)
        _strip(canvas, ground, palette, near, far)
    _patches(canvas, ground, palette, patches)
    _markings(canvas, ground, centre_paint)


def _strip(canvas: Canvas, ground: Ground, palette: Palette, near: float, far: float) -> None:
    road, w = ground.road, ground.road.half_width
    for s in (-1, 1):
        side = ground.sides[s]
        cross = ground.crossroads
        if cross and s in cross[2] and near >= cross[0] - 0.01 and far <= cross[1] + 0.01:
            _flat(canvas, road, s * w, s * 120.0, near, far, ROAD_ID, palette.road, ROAD)
            continue
        a, b = w + side.verge, w + side.width
        if side.lawn:
            _flat(canvas, road, s * b, s * 120.0, near, far, TERRAIN, palette.grass, GRASS, 0.03)
        else:
            _flat(canvas, road, s * b, s * (b + 9.0), near, far, SIDEWALK, shade(palette.paving, 0.93), PAVING, _KERB)
            _flat(canvas, road, s * (b + 9.0), s * 120.0, near, far, TERRAIN, palette.grass, GRASS, 0.03)
        _flat(canvas, road, s * a, s * b, near, far, SIDEWALK, palette.paving, PAVING, _KERB)
        if side.verge > 0:
            _flat(canvas, road, s * w, s * a, near, far, TERRAIN, palette.grass, GRASS, _KERB)
        top = [
            road.at(s * w, near, _KERB),
            road.at(s * (w + 0.22), near, _KERB),
            road.at(s * (w + 0.22), far, _KERB),
            road.at(s * w, far, _KERB),
        ]
        canvas.poly(top, SIDEWALK, palette.kerb, mat=PAVING, snow=0.0)
        face = [road.at(s * w, near), road.at(s * w, far), road.at(s * w, far, _KERB), road.at(s * w, near, _KERB)]
        canvas.poly(face, SIDEWALK, shade(palette.kerb, 0.78), snow=0.2)
    _flat(canvas, road, -w, w, near, far, ROAD_ID, palette.road, ROAD)


def _far_kerb(canvas: Canvas, ground: Ground, palette: Palette, z: float) -> None:
    """The kerb that closes a crossing street: without it the sky shows below the raised pavement."""
    road, w = ground.road, ground.road.half_width
    for s in ground.crossroads[2] if ground.crossroads else ():
        face = [road.at(s * a, z, up) for a, up in ((w, 0.0), (120.0, 0.0), (120.0, _KERB), (w, _KERB))]
        canvas.poly(face, SIDEWALK, shade(palette.kerb, 0.8), snow=0.2)


def _flat(
    canvas: Canvas,
    road: Road,
    a: float,
    b: float,
    near: float,
    far: float,
    label: int,
    rgb: RGB,
    mat: int,
    up: float = 0.0,
) -> None:
    points = [road.at(a, near, up), road.at(b, near, up), road.at(b, far, up), road.at(a, far, up)]
    canvas.poly(points, label, rgb, mat=mat, normal=(0.0, 1.0, 0.0), snow=0.0)


def _patches(canvas: Canvas, ground: Ground, palette: Palette, rng: np.random.Generator) -> None:
    """Repaired asphalt and manholes: quiet structure on the road."""
    w = ground.road.half_width
    for _ in range(int(rng.integers(1, 6))):
        x, z = rng.uniform(-w + 0.8, w - 0.8), rng.uniform(3, 40)
        a, n = rng.uniform(0.4, 1.2), rng.uniform(0.8, 5)
        _flat(
            canvas,
            ground.road,
            x - a,
            x + a,
            z,
            z + n,
            ROAD_ID,
            shade(palette.road, float(rng.uniform(0.84, 1.06))),
            ROAD,
        )
    for _ in range(int(rng.integers(0, 3))):
        x, z = rng.uniform(-w + 1, w - 1), rng.uniform(4, 25)
        _flat(canvas, ground.road, x - 0.35, x + 0.35, z, z + 0.7, ROAD_ID, shade(palette.road, 0.62), ROAD)


def _markings(canvas: Canvas, ground: Ground, centre_paint: RGB) -> None:
    white: RGB = (236, 236, 230)
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
            _line(canvas, ground, edge * k / lanes, 0.07, 2.5, 5.0, white)
        parked = abs(edge) < w - 0.1
        _line(canvas, ground, edge - np.sign(edge) * (0.0 if parked else 0.25), 0.06, 0.0, 0.0, shade(white, 0.95))
    for z in ground.crossings:
        _crossing(canvas, ground, z, white)


def _busy(ground: Ground, z: float) -> bool:
    """Whether lines are interrupted at z."""
    cross = ground.crossroads
    if cross and cross[0] - 1 < z < cross[1] + 1:
        return True
    return any(c - 1.6 < z < c + 4.0 for c in ground.crossings)


def _line(canvas: Canvas, ground: Ground, x: float, half: float, dash: float, gap: float, rgb: RGB) -> None:
    z, stop = 0.4, 90.0
    while z < stop:
        n = dash or (2.0 if z < 20 else 6.0)
        if not _busy(ground, z) and not _busy(ground, z + n):
            points = [ground.road.at(x + s * half, q) for s, q in ((-1, z), (1, z), (1, z + n), (-1, z + n))]
            canvas.poly(points, ROAD_ID, rgb, mat=MARKING, normal=(0.0, 1.0, 0.0), snow=0.0)
        z += n + gap


def _crossing(canvas: Canvas, ground: Ground, z: float, rgb: RGB) -> None:
    road, w = ground.road, ground.road.half_width
    if ground.zebra:
        x = -w + 0.4
        while x < w - 0.5:
            points = [road.at(a, b) for a, b in ((x, z), (x + 0.5, z), (x + 0.5, z + 3.0), (x, z + 3.0))]
            canvas.poly(points, ROAD_ID, rgb, mat=MARKING, normal=(0.0, 1.0, 0.0), snow=0.0)
            x += 1.0
    else:
        for q in (z, z + 2.8):
            points = [
                road.at(a, b) for a, b in ((-w + 0.2, q), (w - 0.2, q), (w - 0.2, q + 0.25), (-w + 0.2, q + 0.25))
            ]
            canvas.poly(points, ROAD_ID, rgb, mat=MARKING, normal=(0.0, 1.0, 0.0), snow=0.0)
    stop = [road.at(a, b) for a, b in ((0.2, z - 1.4), (w - 0.2, z - 1.4), (w - 0.2, z - 1.0), (0.2, z - 1.0))]
    canvas.poly(stop, ROAD_ID, rgb, mat=MARKING, normal=(0.0, 1.0, 0.0), snow=0.0)
