"""Builds what lies behind the pavements: skyline, houses, parks, tracks, walls, fences and hedges."""

from itertools import pairwise

import numpy as np

from dgkit.world.classes import TRAIN
from dgkit.world.colour import shade
from dgkit.world.things import barriers, buildings, greenery, large_vehicles
from dgkit.world.town.state import BACKDROP, HOUSES, STREET, Town

_FAR = 150.0  # metres; beyond it there is only the skyline


def fill(town: Town) -> None:
    """Line both sides of the road."""
    _skyline(town)
    track = town.side() if town.chance("train") else 0
    for s in (-1, 1):
        _line(town, s, track == s)


def plant(town: Town, x: float, z: float, layer: int, height: float) -> None:
    """Place a tree ``x`` metres right of the centre line."""
    leaf, kind = town.pick(town.palette.leaves), int(town.rng.choice(3, p=town.role.plan.tree_kinds))
    town.add(layer, z, greenery.tree, town.facing(x, z, 0.05), town.seed(), leaf, height, kind)


def shrub(town: Town, x: float, z: float, layer: int) -> None:
    """Place a bush ``x`` metres right of the centre line."""
    leaf, wide, high = town.pick(town.palette.leaves), town.uniform(0.6, 1.4), town.uniform(0.7, 1.5)
    town.add(layer, z, greenery.bush, town.facing(x, z, 0.03), town.seed(), leaf, wide, high)


def _skyline(town: Town) -> None:
    if town.odds(town.role.plan.open_sky):
        return
    x = -260.0
    while x < 260.0:
        w, h, z = town.uniform(12, 40), town.uniform(8, 44), town.uniform(220, 330)
        a, b = town.road.at(x, z, -2.0), town.road.at(x + w, z, -2.0)
        if town.odds(0.7):
            rgb = shade(town.pick(town.palette.houses), 0.92)
            town.add(BACKDROP, z, buildings.tower, a, b, h, rgb, town.seed())
        x += w + town.uniform(0, 20)


def _house(town: Town, low: float, high: float) -> buildings.House:
    plan, floor = town.role.plan, town.uniform(2.8, 3.6)
    height = floor * round(town.uniform(low, high) / floor) + town.uniform(0.4, 1.0)
    modern = town.odds(plan.modern)
    wide, tall = (
        (town.uniform(0.72, 0.9), town.uniform(0.5, 0.64))
        if modern
        else (town.uniform(0.36, 0.56), town.uniform(0.44, 0.56))
    )
    return buildings.House(
        height=height,
        floor=floor,
        spacing=town.uniform(2.0, 3.6),
        window=(wide, tall),
        rgb=town.pick(town.palette.houses),
        trim=town.pick(town.palette.trims, 0.05),
        roof=town.pick(town.palette.roofs),
        shop=town.pick(town.role.cars, 0.15) if town.odds(plan.shop) else None,
        gable=town.uniform(1.6, 3.4) if town.odds(plan.gable) and height < 14 else 0.0,
        brick=town.odds(plan.brick),
        balcony=town.odds(plan.balcony),
        lit=town.seed(),
    )


def _line(town: Town, s: int, track: bool) -> None:
    """Build one side of the road, block by block."""
    side = town.ground.sides[s]
    inner = town.road.half_width + side.width
    setback = town.uniform(3.0, 8.0) if side.lawn else town.uniform(0.0, 1.0)
    if track:
        _track(town, s, inner + 1.2)
        setback = 9.0
    line = inner + setback
    z = town.uniform(-8.0, 0.0)
    cross = town.ground.crossroads
    while z < _FAR:
        n = town.uniform(8, 20) if z < 60 else town.uniform(16, 36)
        if cross and town.opens(s, z, z + n):
            if cross.near - 3 - z > 5:
                _block(town, s, line, z, cross.near - 3)
            z = cross.far + 3
            continue
        _block(town, s, line, z, z + n)
        z += n + (town.uniform(1.0, 5.0) if town.odds(0.7 if side.lawn else 0.25) else 0.0)
    if cross and s in cross.sides:
        _cross_street(town, s, line, cross.far + 3.5)
    if side.lawn or track:
        _edge(town, s, inner + (0.4 if town.odds(0.5) else max(0.4, 0.8 * setback)))


def _block(town: Town, s: int, line: float, near: float, far: float) -> None:
    if town.chance("park"):
        for _ in range(int((far - near) / 3.0) + 2):
            plant(town, s * (line + town.uniform(0, 9)), town.uniform(near, far), HOUSES, town.uniform(5, 10))
        for _ in range(3):
            shrub(town, s * (line + town.uniform(-0.5, 2)), town.uniform(near, far), HOUSES)
        return
    plan = town.role.plan
    house = _house(town, *(plan.low if town.ground.sides[s].lawn else plan.tall))
    a, b = town.road.at(s * line, near), town.road.at(s * line, far)
    town.add(HOUSES, near, buildings.house, a, b, (s * town.uniform(8, 14), 0.0, 0.0), house)


def _cross_street(town: Town, s: int, line: float, z: float) -> None:
    """Place houses along the far side of a crossing street."""
    x = line + 14
    while x < 70:
        n = town.uniform(9, 16)
        a, b = town.road.at(s * x, z), town.road.at(s * (x + n), z)
        town.add(HOUSES, z, buildings.house, a, b, (0.0, 0.0, 10.0), _house(town, *town.role.plan.tall))
        x += n


def _edge(town: Town, s: int, x: float) -> None:
    """Place walls, fences and hedges along a lawn, interrupted at crossing streets."""
    z = town.uniform(-2.0, 6.0)
    for _ in range(4):
        n = town.uniform(6, 22)
        if not town.opens(s, z, z + n) and town.odds(0.86):
            _barrier(town, s, x, z, z + n)
        z += n + town.uniform(0, 5)


def _barrier(town: Town, s: int, x: float, near: float, far: float) -> None:
    kind = int(town.rng.choice(3, p=town.role.plan.barriers))
    low, high, style = town.uniform(0.9, 1.7), town.uniform(1.2, 2.6), town.integer(0, 4)
    stone = town.pick(((172, 164, 152), (150, 120, 100), (190, 186, 180)))
    board = town.pick(((150, 112, 76), (226, 226, 220), (96, 106, 96), (120, 126, 134)))
    leaf = town.pick(town.palette.leaves)
    pieces = np.linspace(near, far, max(2, int((far - near) / 6) + 1)).tolist()
    for z0, z1 in pairwise(pieces):
        a, b = town.road.at(s * x, z0), town.road.at(s * x, z1)
        if kind == 0:
            town.add(STREET, z0, barriers.wall, a, b, high, stone, (s * 0.3, 0.0, 0.0))
        elif kind == 1:
            town.add(STREET, z0, barriers.fence, a, b, low, board, style)
        else:
            town.add(STREET, z0, barriers.hedge, a, b, low, leaf, (s * 0.8, 0.0, 0.0))


def _track(town: Town, s: int, x: float) -> None:
    """Place a train on its own track next to the pavement."""
    rgb = town.pick(((206, 62, 48), (238, 236, 228), (46, 96, 158), (236, 196, 60)), 0.08)
    band = town.pick(((52, 60, 72), (196, 44, 44), (240, 240, 236), (36, 110, 84)), 0.08)
    z, n = town.uniform(4, 26), town.uniform(11, 15)
    for k in range(town.integer(2, 5)):
        near = z + k * (n + 0.5)
        frame = town.frame(s * (x + 1.6), near + n / 2, np.pi if s < 0 else 0.0)
        town.add(HOUSES, near - 0.1, large_vehicles.coach, frame, TRAIN, rgb, band, n, 3.7)
