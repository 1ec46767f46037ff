"""Houses with windows, doors, shops, balconies and roofs."""

from dataclasses import dataclass

import numpy as np

from dgkit.world.camera import Point, translate
from dgkit.world.canvas import BRICK, GLASS, PLASTER, Canvas, Quads
from dgkit.world.classes import BUILDING
from dgkit.world.colour import RGB, mix, shade

_PANE: RGB = (62, 78, 96)
_WARM: RGB = (255, 206, 120)
_COOL: RGB = (226, 232, 255)


@dataclass(frozen=True)
class House:
    """Proportions and colours of one house; lengths in metres."""

    height: float
    floor: float
    spacing: float
    window: tuple[float, float]  # fractions of spacing and floor
    rgb: RGB
    trim: RGB
    roof: RGB
    shop: RGB | None
    gable: float  # height of a pitched roof, 0 for a flat one
    brick: bool
    balcony: bool
    lit: int  # seed of the lit windows


def front(canvas: Canvas, a: Point, b: Point, house: House, detail: bool = True) -> None:
    """Draw one facade from a to b (ground points); ``detail``: with shops or doors on the ground floor."""
    p, q = np.array(a), np.array(b)
    length = float(np.linalg.norm(q - p))
    mat = BRICK if house.brick else PLASTER
    top = house.height
    if not canvas.poly([a, b, _up(b, top), _up(a, top)], BUILDING, house.rgb, mat=mat):
        return
    floors = max(1, int(top / house.floor))
    columns = max(1, int(length / house.spacing))
    small = canvas.pixels_per_metre(max(4.0, min(a[2], b[2]))) * house.spacing < 3.0
    if small or length < 2.0:
        return
    wall = _Wall(canvas, p, q, length)
    wall.band(top - 0.45, top, house.trim, 0.5)
    first = 1 if detail else 0
    if detail:
        _ground_floor(wall, house, length)
    step = length / columns
    w, h = house.window[0] * step, house.window[1] * house.floor
    left, low = np.meshgrid(
        (np.arange(columns) + 0.5) * step - w / 2, np.arange(first, floors) * house.floor + house.floor * 0.3
    )
    left, low = left.ravel(), low.ravel()
    low = low[low + h < top - 0.5] if len(low) else low
    left = left[: len(low)]
    if len(low) == 0:
        wall.draw()
        return
    wall.rects(left - 0.14, low - 0.14, w + 0.28, h + 0.24, house.trim)
    lit = np.random.default_rng(house.lit).random(len(low))
    glass = _PANE if house.window[0] < 0.7 else mix(_PANE, (104, 140, 170), 0.5)
    for mask, tone, emit in ((lit < 0.45, 1.0, (0, 0, 0)), ((lit >= 0.45) & (lit < 0.62), 1.3, (0, 0, 0)),
                             ((lit >= 0.62) & (lit < 0.9), 0.9, _WARM), (lit >= 0.9, 1.1, _COOL)):  # fmt: skip
        wall.rects(left[mask], low[mask], w, h, shade(glass, tone), emit, GLASS)
    wall.rects(left - 0.2, low - 0.22, w + 0.4, 0.14, shade(house.trim, 1.06), snow=0.9)
    if house.balcony:
        pick = np.random.default_rng(house.lit + 1).random(len(low)) < 0.45
        wall.rects(left[pick] - 0.3, low[pick] - 0.25, w + 0.6, h * 0.5, shade(house.trim, 0.72), snow=0.25)
    else:
        wall.rects(left + w / 2 - 0.05, low, 0.1, h, house.trim)
    wall.draw()


class _Wall:
    """Rectangles on a facade, in metres along it and above the ground, collected to be drawn together."""

    def __init__(self, canvas: Canvas, p: np.ndarray, q: np.ndarray, length: float) -> None:
        self.canvas, self.p, self.length = canvas, p, length
        self.along = (q - p) / length
        self.pending: list[Quads] = []

    def rects(
        self, left: np.ndarray, low: np.ndarray | float, wide: float, high: float, rgb: RGB,
        emit: RGB = (0, 0, 0), mat: int = 0, snow: float = 0.0,
    ) -> None:  # fmt: skip
        x0 = np.minimum(np.maximum(np.asarray(left, float), 0), self.length)
        x1 = np.minimum(np.maximum(x0 + wide, 0), self.length)
        y0 = np.asarray(low, float)
        corners = np.empty((len(x0), 4, 3))
        left_edge, right_edge = self.p + x0[:, None] * self.along, self.p + x1[:, None] * self.along
        corners[:, 0] = corners[:, 3] = left_edge
        corners[:, 1] = corners[:, 2] = right_edge
        corners[:, :2, 1] += y0[..., None]
        corners[:, 2:, 1] += (y0 + high)[..., None]
        self.pending.append((corners, rgb, emit, mat, snow))

    def draw(self) -> None:
        """Draw all rectangles in the order in which they were added."""
        self.canvas.groups(BUILDING, self.pending)

    def band(self, low: float, high: float, rgb: RGB, snow: float = 0.0) -> None:
        edges = np.linspace(0, self.length, 9)
        self.rects(edges[:-1], low, self.length / 8, high - low, rgb, snow=snow)


def _ground_floor(wall: _Wall, house: House, length: float) -> None:
    rng = np.random.default_rng(house.lit + 2)
    height = house.floor
    units = max(1, round(length / 5.0))
    unit = length / units
    left = np.arange(units) * unit
    if house.shop is not None:
        wall.band(0.0, height * 0.96, mix(house.rgb, (90, 88, 86), 0.5))
        wall.rects(left + 0.3, 0.35, unit * 0.62, height * 0.58, _PANE, shade(_WARM, 0.85), GLASS)
        wall.rects(
            left + 0.36 + unit * 0.68, 0.0, unit * 0.2, height * 0.7, shade(_PANE, 0.8), shade(_WARM, 0.6), GLASS
        )
        awning = rng.random(units) < 0.6
        rgb, low, high = house.shop, height * 0.68, height * 0.24
        wall.rects(left[awning] + 0.15, low, unit * 0.94, high, rgb, shade(rgb, 0.35), snow=0.4)
        low, high = height * 0.76, height * 0.16
        wall.rects(left[~awning] + 0.15, low, unit * 0.94, high, shade(rgb, 0.8), shade(rgb, 0.7))
        return
    wall.band(0.0, 0.6, shade(house.rgb, 0.75))
    door = left[rng.random(units) < 0.5]
    wall.rects(door + unit * 0.36, 0.0, 1.5, 2.5, house.trim)
    wall.rects(door + unit * 0.36 + 0.17, 0.0, 1.16, 2.3, shade(house.roof, 0.8))
    wall.rects(left + unit * 0.05, 1.0, unit * 0.22, 1.5, house.trim)
    wall.rects(left + unit * 0.05 + 0.1, 1.1, unit * 0.22 - 0.2, 1.3, _PANE, shade(_WARM, 0.5), GLASS)


def house(canvas: Canvas, a: Point, b: Point, depth: Point, kind: House) -> None:
    """Draw a house whose street front runs from a (near) to b (far); ``depth`` points away from the street."""
    a2, b2 = translate(a, depth), translate(b, depth)
    canvas.casters.append(([a, b, b2, a2], kind.height + kind.gable * 0.7))
    top = kind.height
    roof = [_up(a, top), _up(b, top), _up(b2, top), _up(a2, top)]
    if kind.gable > 0:
        mid_a, mid_b = _up(_half(a, a2), top + kind.gable), _up(_half(b, b2), top + kind.gable)
        canvas.poly([_up(a2, top), mid_a, mid_b, _up(b2, top)], BUILDING, kind.roof, snow=1.0)
        canvas.poly([_up(a, top), _up(a2, top), mid_a], BUILDING, shade(kind.rgb, 0.95))
        canvas.poly([_up(a, top), _up(b, top), mid_b, mid_a], BUILDING, kind.roof, snow=1.0)
    else:
        canvas.poly(roof, BUILDING, shade(kind.roof, 0.9), snow=1.0)
    front(canvas, a, a2, kind, detail=False)
    front(canvas, a, b, kind)


def tower(canvas: Canvas, a: Point, b: Point, height: float, rgb: RGB, seed: int) -> None:
    """Draw a distant block of the skyline, with specks of windows."""
    canvas.poly([a, b, _up(b, height), _up(a, height)], BUILDING, rgb, mat=PLASTER)
    wall = _Wall(canvas, np.array(a), np.array(b), float(np.linalg.norm(np.array(b) - np.array(a))) or 1.0)
    rng = np.random.default_rng(seed)
    n = 14
    left, low = rng.uniform(1, max(1.5, wall.length - 5), n), rng.uniform(3, max(4.0, height - 5), n)
    wall.rects(left, low, 3.2, 2.2, shade(rgb, 0.8), _WARM)
    wall.draw()


def _up(p: Point, h: float) -> Point:
    return (p[0], p[1] + h, p[2])


def _half(p: Point, q: Point) -> Point:
    return ((p[0] + q[0]) / 2, (p[1] + q[1]) / 2, (p[2] + q[2]) / 2)
