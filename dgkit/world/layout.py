"""Composition of one scene: the road, what lines it, and the traffic, drawn far to near."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from dgkit.world import buildings, ground, people, street, vehicles
from dgkit.world.camera import Camera, Point, Road
from dgkit.world.canvas import RGB, Canvas
from dgkit.world.frame import Frame, mix, shade, vary
from dgkit.world.roles import Palette, Role

_FAR = 150.0  # metres; nothing but the skyline is built beyond


@dataclass
class Town:
    """Working state while a scene is composed; ``items`` are (layer, depth, painter)."""

    rng: np.random.Generator
    role: Role
    palette: Palette
    camera: Camera
    road: Road
    flat: ground.Ground
    items: list[tuple[int, float, Callable[[Canvas], None]]] = field(default_factory=list)

    def chance(self, name: str) -> bool:
        return bool(self.rng.random() < self.role.chances[name])

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def pick(self, options: tuple[RGB, ...], amount: float = 0.1) -> RGB:
        return vary(options[int(self.rng.integers(len(options)))], self.rng, amount)

    def add(self, layer: int, depth: float, painter: Callable[[Canvas], None]) -> None:
        self.items.append((layer, depth, painter))

    def frame(self, lateral: float, z: float, turn: float = 0.0, up: float = 0.0, scale: float = 1.0) -> Frame:
        """A frame on the ground that follows the road's heading, turned by ``turn`` radians."""
        return Frame(self.road.at(lateral, z, up), self.road.yaw(z) + turn, scale)

    def facing(self, lateral: float, z: float, up: float = 0.14, turn: float = 0.0) -> Frame:
        """A frame whose sheet faces the camera."""
        x, _, _ = self.road.at(lateral, z)
        return Frame(self.road.at(lateral, z, up), float(np.arctan2(x - self.camera.x, max(z, 1.0))) + turn)


def plan(rng: np.random.Generator, role: Role) -> Town:
    """Draw the camera, the road and the widths beside it."""
    palette = role.palettes[int(rng.integers(len(role.palettes)))]
    lanes = (1 + int(rng.random() < 0.35), 1 + int(rng.random() < 0.35))
    lane = float(rng.uniform(3.0, 3.6))
    sides = {s: _side(rng) for s in (-1, 1)}
    half = lane * max(lanes) + max(sides[-1].parking, sides[1].parking)
    road = Road(half, float(rng.normal(0, 0.0007)), float(rng.normal(0, 0.006)), float(rng.uniform(-0.00002, 0.0001)))
    side_lane = float(rng.uniform(0.15, 0.92)) * (half - sides[1].parking)
    camera = Camera(side_lane, float(rng.uniform(1.3, 2.5)), float(rng.normal(0, 0.09)), float(rng.uniform(-0.03, 0.11)), float(rng.uniform(1.05, 1.7)))
    crossroads, crossings = None, []
    if rng.random() < role.chances["crossroads"]:
        near = float(rng.uniform(11, 34))
        wide = float(rng.uniform(8, 14))
        crossroads = (near, near + wide, ((-1, 1), (-1,), (1,))[int(rng.integers(3))])
        if rng.random() < 0.75:
            crossings.append(near - 4.0)
    elif rng.random() < role.chances["crossing"]:
        crossings.append(float(rng.uniform(5, 24)))
    flat = ground.Ground(road, sides, crossroads, tuple(crossings), lanes, int(rng.integers(3)), bool(rng.random() < 0.75))
    return Town(rng, role, palette, camera, road, flat)


def _side(rng: np.random.Generator) -> ground.Side:
    verge = float(rng.uniform(1.2, 4.0)) if rng.random() < 0.48 else 0.0
    return ground.Side(verge, float(rng.uniform(2.8, 6.0)), bool(rng.random() < 0.55), 2.2 if rng.random() < 0.42 else 0.0)


def populate(town: Town) -> None:
    """Fill the town; every random choice of the scene's content is made here, before anything is drawn."""
    _skyline(town)
    track = int(town.rng.choice((-1, 1))) if town.chance("train") else 0
    for s in (-1, 1):
        _frontage(town, s, track == s)
    for s in (-1, 1):
        _furniture(town, s)
    _traffic(town)
    _walkers(town)
    _signals(town)
    _specials(town)


def paint(town: Town, canvas: Canvas) -> None:
    """Draw everything far to near."""
    seed = int(town.rng.integers(1 << 30))
    centre = town.palette.paint if town.role.centre_paint else (236.0, 236.0, 230.0)
    for _, _, painter in sorted((i for i in town.items if i[0] == 0), key=lambda i: -i[1]):
        painter(canvas)
    ground.draw(canvas, town.flat, town.palette, centre, np.random.default_rng(seed))
    for _, _, painter in sorted((i for i in town.items if i[0] > 0), key=lambda i: (i[0], -i[1])):
        painter(canvas)


# -- background and frontage ----------------------------------------------------------------------------------------


def _skyline(town: Town) -> None:
    rng = town.rng
    if rng.random() < 0.3:
        return
    x = -260.0
    while x < 260.0:
        w, h, z = town.uniform(12, 40), town.uniform(8, 44), town.uniform(220, 330)
        rgb, seed = shade(town.pick(town.palette.houses), 0.92), int(rng.integers(1 << 30))
        a, b = town.road.at(x, z, -2.0), town.road.at(x + w, z, -2.0)
        if rng.random() < 0.7:
            town.add(0, z, lambda c, a=a, b=b, h=h, rgb=rgb, seed=seed: buildings.tower(c, a, b, h, rgb, seed))
        x += w + town.uniform(0, 20)


def _house(town: Town, low: float = 5.0, high: float = 21.0) -> buildings.House:
    rng = town.rng
    floor = town.uniform(2.8, 3.6)
    height = floor * round(town.uniform(low, high) / floor) + town.uniform(0.4, 1.0)
    modern = rng.random() < 0.25
    shop = town.pick(town.role.cars, 0.15) if rng.random() < 0.45 else None
    return buildings.House(
        height, floor, town.uniform(2.0, 3.6), (town.uniform(0.72, 0.9), town.uniform(0.5, 0.64)) if modern else (town.uniform(0.36, 0.56), town.uniform(0.44, 0.56)),
        town.pick(town.palette.houses), town.pick(town.palette.trims, 0.05), town.pick(town.palette.roofs), shop,
        town.uniform(1.6, 3.4) if rng.random() < 0.45 and height < 14 else 0.0, bool(rng.random() < 0.5), bool(rng.random() < 0.25), int(rng.integers(1 << 30)),
    )  # fmt: skip


def _frontage(town: Town, s: int, track: bool) -> None:
    """What stands behind the pavement of one side, block by block."""
    side, w = town.flat.sides[s], town.road.half_width
    inner = w + side.width
    setback = town.uniform(3.0, 8.0) if side.lawn else town.uniform(0.0, 1.0)
    if track:
        _track(town, s, inner + 1.2)
        setback = 9.0
    line = inner + setback
    z = town.uniform(-8.0, 0.0)
    cross = town.flat.crossroads
    while z < _FAR:
        n = town.uniform(8, 20) if z < 60 else town.uniform(16, 36)
        if cross and s in cross[2] and z < cross[1] + 3 and z + n > cross[0] - 3:
            if cross[0] - 3 - z > 5:
                _block(town, s, line, inner, z, cross[0] - 3, side)
            z = cross[1] + 3
            continue
        _block(town, s, line, inner, z, z + n, side)
        z += n + (town.uniform(1.0, 5.0) if town.rng.random() < (0.7 if side.lawn else 0.25) else 0.0)
    if cross and s in cross[2]:
        _cross_street(town, s, line, cross)
    if side.lawn or setback > 2:
        _edge(town, s, inner + (0.4 if town.rng.random() < 0.5 else max(0.4, 0.8 * setback)), z0=town.uniform(-2, 6), setback=setback, track=track)


def _block(town: Town, s: int, line: float, inner: float, near: float, far: float, side: ground.Side) -> None:
    if town.chance("park"):
        _park(town, s, line, near, far)
        return
    look = _house(town, 4.5, 12.0) if side.lawn else _house(town)
    a, b = town.road.at(s * line, near), town.road.at(s * line, far)
    depth = (s * town.uniform(8, 14), 0.0, 0.0)
    town.add(2, near, lambda c: buildings.house(c, a, b, depth, look))


def _park(town: Town, s: int, line: float, near: float, far: float) -> None:
    for _ in range(int((far - near) / 3.0) + 2):
        z, x = town.uniform(near, far), line + town.uniform(0, 9)
        _tree(town, s * x, z, 2, town.uniform(5, 10))
    for _ in range(3):
        _bush(town, s * (line + town.uniform(-0.5, 2)), town.uniform(near, far), 2)


def _tree(town: Town, x: float, z: float, layer: int, height: float) -> None:
    leaf, seed, kind = town.pick(town.palette.leaves), int(town.rng.integers(1 << 30)), int(town.rng.choice(3, p=(0.62, 0.16, 0.22)))
    frame = town.facing(x, z, 0.05)
    town.add(layer, z, lambda c: street.tree(c, frame, np.random.default_rng(seed), leaf, height, kind))


def _bush(town: Town, x: float, z: float, layer: int) -> None:
    leaf, seed = town.pick(town.palette.leaves), int(town.rng.integers(1 << 30))
    wide, high, frame = town.uniform(0.6, 1.4), town.uniform(0.7, 1.5), town.facing(x, z, 0.03)
    town.add(layer, z, lambda c: street.bush(c, frame, np.random.default_rng(seed), leaf, wide, high))


def _cross_street(town: Town, s: int, line: float, cross: tuple[float, float, tuple[int, ...]]) -> None:
    """Houses along the far side of the crossing street, and cars in it."""
    x = line + 14
    while x < 70:
        n = town.uniform(9, 16)
        look = _house(town)
        a, b = town.road.at(s * x, cross[1] + 3.5), town.road.at(s * (x + n), cross[1] + 3.5)
        town.add(2, cross[1] + 3.5, lambda c, a=a, b=b, look=look: buildings.house(c, a, b, (0.0, 0.0, 10.0), look))
        x += n
    for _ in range(int(town.rng.integers(0, 3))):
        _car(town, s * town.uniform(town.road.half_width + 3, 30), (cross[0] + cross[1]) / 2 + s * 2.2, s * np.pi / 2, layer=2)


def _edge(town: Town, s: int, x: float, z0: float, setback: float, track: bool) -> None:
    """Walls, fences and hedges along the pavement, interrupted at crossing streets."""
    z = z0
    cross = town.flat.crossroads
    for _ in range(4):
        n = town.uniform(6, 22)
        blocked = cross is not None and s in cross[2] and z < cross[1] + 3 and z + n > cross[0] - 3
        kind = town.rng.random()
        if not blocked and kind < 0.86:
            _barrier(town, s, x, z, z + n, kind)
        z += n + town.uniform(0, 5)


def _barrier(town: Town, s: int, x: float, near: float, far: float, kind: float) -> None:
    pieces = np.linspace(near, far, max(2, int((far - near) / 6) + 1))
    wall, fence, style = town.uniform(1.2, 2.6), town.uniform(0.9, 1.7), int(town.rng.integers(4))
    tone = town.pick(((172, 164, 152), (150, 120, 100), (190, 186, 180)), 0.1)
    board = town.pick(((150, 112, 76), (226, 226, 220), (96, 106, 96), (120, 126, 134)), 0.1)
    leaf = town.pick(town.palette.leaves)
    for z0, z1 in zip(pieces[:-1].tolist(), pieces[1:].tolist(), strict=True):
        a, b = town.road.at(s * x, z0), town.road.at(s * x, z1)
        thick = (s * 0.3, 0.0, 0.0)
        if kind < 0.3:
            town.add(3, z0, lambda c, a=a, b=b: street.wall(c, a, b, wall, tone, thick))
        elif kind < 0.68:
            town.add(3, z0, lambda c, a=a, b=b: street.fence(c, a, b, fence, board, style))
        else:
            town.add(3, z0, lambda c, a=a, b=b: street.hedge(c, a, b, fence, leaf, (s * 0.8, 0.0, 0.0)))


def _track(town: Town, s: int, x: float) -> None:
    """A train on its own track beside the pavement."""
    rgb = town.pick(((206, 62, 48), (238, 236, 228), (46, 96, 158), (236, 196, 60)), 0.08)
    band = town.pick(((52, 60, 72), (196, 44, 44), (240, 240, 236), (36, 110, 84)), 0.08)
    z, n = town.uniform(4, 26), town.uniform(11, 15)
    for k in range(int(town.rng.integers(2, 5))):
        at = z + n / 2 + k * (n + 0.5)
        frame = town.frame(s * (x + 1.6), at, np.pi if s < 0 else 0.0)
        town.add(2, at - n / 2 - 0.1, lambda c, f=frame: vehicles.coach(c, f, vehicles.TRAIN, rgb, band, n, 3.7, 1.9))


def _furniture(town: Town, s: int) -> None:
    rng, side, w = town.rng, town.flat.sides[s], town.road.half_width
    kerb = w + (side.verge * 0.5 if side.verge else 0.5)
    rgb = town.pick(((110, 114, 118), (70, 76, 74), (150, 152, 154)), 0.1)
    glow: RGB = (255, 214, 140) if rng.random() < 0.7 else (228, 236, 255)
    gap, z, height = town.uniform(15, 26), town.uniform(3, 14), town.uniform(5.5, 8)
    while z < 110:
        frame = town.facing(s * kerb, z)
        town.add(3, z, lambda c, f=frame: street.lamp(c, f, height, -s * 1.6, rgb, glow))
        z += gap
    if rng.random() < 0.62:
        z, gap = town.uniform(5, 16), town.uniform(7, 14)
        while z < 100:
            if not _in_crossing(town, z):
                _tree(town, s * (kerb + 0.3), z, 3, town.uniform(4.5, 7.5))
            z += gap * town.uniform(0.8, 1.3)
    for _ in range(int(rng.integers(1, 4))):
        z, kind, seed = town.uniform(5, 42), int(rng.integers(7)), int(rng.integers(1 << 30))
        frame = town.facing(s * (w + town.uniform(0.4, 0.9)), z)
        town.add(3, z, lambda c, f=frame, k=kind, q=seed: street.traffic_sign(c, f, k, rgb, np.random.default_rng(q)))
    for _ in range(int(rng.integers(0, 4))):
        _bush(town, s * (w + side.width + town.uniform(0.2, 1.2)), town.uniform(4, 40), 3)
    if rng.random() < 0.4:
        _clutter(town, s)


def _clutter(town: Town, s: int) -> None:
    rng, side, w = town.rng, town.flat.sides[s], town.road.half_width
    z, x = town.uniform(5, 25), s * (w + side.verge + town.uniform(0.6, max(0.7, side.pavement - 0.6)))
    rgb, ink = town.pick(town.role.cars, 0.2), town.pick(town.role.clothes, 0.2)
    if rng.random() < 0.4:
        frame, wide = town.facing(x, z), town.uniform(1.3, 2.2)
        town.add(3, z, lambda c: street.billboard(c, frame, rgb, ink, wide))
        return
    frame = town.frame(x, z, up=0.14)
    size = (town.uniform(0.5, 0.9), town.uniform(0.8, 1.3), town.uniform(0.5, 0.9))
    town.add(3, z, lambda c: street.bin_(c, frame, shade(rgb, 0.7), size))


def _in_crossing(town: Town, z: float) -> bool:
    cross = town.flat.crossroads
    return cross is not None and cross[0] - 2 < z < cross[1] + 2


# -- traffic ---------------------------------------------------------------------------------------------------------


def _car(town: Town, x: float, z: float, turn: float, layer: int = 3) -> None:
    kind, rgb = vehicles.CAR_KINDS[int(town.rng.integers(4))], town.pick(town.role.cars, 0.14)
    frame = town.frame(x, z, turn, scale=town.uniform(0.95, 1.06))
    town.add(layer, z - 2.2 * abs(np.cos(turn)) - 0.8 * abs(np.sin(turn)), lambda c: vehicles.car(c, frame, kind, rgb))


def _big(town: Town, kind: str, x: float, z: float, turn: float) -> float:
    """A truck, bus or tram with its near end at z; returns its length."""
    rgb, other = town.pick(town.role.cars, 0.1), town.pick(town.role.cars, 0.1)
    n = {"truck": town.uniform(6.5, 9.5), "bus": town.uniform(9, 12), "train": town.uniform(12, 16)}[kind]
    frame, seed = town.frame(x, z + n / 2, turn), int(town.rng.integers(1 << 30))
    pale: RGB = vary((226, 224, 218), town.rng, 0.08)
    if kind == "truck":
        load = pale if town.rng.random() < 0.6 else other
        town.add(3, z, lambda c: vehicles.truck(c, frame, rgb, load, n, np.random.default_rng(seed)))
    elif kind == "bus":
        town.add(3, z, lambda c: vehicles.coach(c, frame, vehicles.BUS, rgb, shade(rgb, 0.75) if seed % 2 else pale, n, 3.0, 1.6))
    else:
        for k in range(2):
            f = town.frame(x, z + n / 2 + k * (n + 0.4), turn)
            town.add(3, z + k * n, lambda c, f=f: vehicles.coach(c, f, vehicles.TRAIN, pale, rgb, n, 3.6, 1.9))
    return n


def _traffic(town: Town) -> None:
    rng, flat, w = town.rng, town.flat, town.road.half_width
    wanted = [k for k in ("bus", "truck") if town.chance(k)]
    if rng.random() < 0.06:
        wanted.append("train")
    own = _lane_of(town, town.camera.x)
    for s, count in ((-1, flat.lanes[0]), (1, flat.lanes[1])):
        edge = w - flat.sides[s].parking
        for k in range(count):
            x = s * edge * (k + 0.5) / count
            near = town.uniform(7, 16) if (s, k) == own else town.uniform(4.5, 16)
            z = near if town.chance("near_car") else near + town.uniform(6, 25)
            while z < 110:
                turn = 0.0 if s > 0 else np.pi
                if wanted and rng.random() < 0.5 and z > 7:
                    z += _big(town, wanted.pop(), x, z, turn)
                elif rng.random() < 0.75:
                    _car(town, x + town.uniform(-0.25, 0.25), z + 2.2, turn + town.uniform(-0.04, 0.04))
                    z += 4.5
                z += town.uniform(4, 26)
        if flat.sides[s].parking:
            _parked(town, s)
    for kind in wanted:
        _big(town, kind, -w * 0.5, town.uniform(12, 40), np.pi)


def _lane_of(town: Town, x: float) -> tuple[int, int]:
    count = town.flat.lanes[1]
    edge = town.road.half_width - town.flat.sides[1].parking
    return (1, min(count - 1, int(x / edge * count)))


def _parked(town: Town, s: int) -> None:
    x = s * (town.road.half_width - 1.05)
    z = town.uniform(2, 8)
    while z < 80:
        if town.rng.random() < 0.7 and not _in_crossing(town, z) and not any(c - 6 < z < c + 4 for c in town.flat.crossings):
            _car(town, x, z + 2.2, 0.0 if s > 0 else np.pi)
        z += town.uniform(5.2, 7.5)


def _outfit(town: Town) -> tuple[RGB, RGB]:
    dark: tuple[RGB, ...] = ((44, 50, 70), (52, 50, 50), (92, 84, 74), (60, 80, 120), (120, 112, 100))
    return town.pick(town.role.clothes, 0.2), town.pick(dark, 0.2)


def _person(town: Town, x: float, z: float, up: float = 0.14) -> None:
    shirt, trousers = _outfit(town)
    seed, frame = int(town.rng.integers(1 << 30)), town.facing(x, z, up)
    frame = Frame(frame.origin, town.camera.yaw * 0.5, town.uniform(0.9, 1.08) if town.rng.random() < 0.9 else 0.7)
    town.add(3, z, lambda c: people.person(c, frame, np.random.default_rng(seed), shirt, trousers))


def _walkers(town: Town) -> None:
    rng, w = town.rng, town.road.half_width
    for s in (-1, 1):
        side = town.flat.sides[s]
        for _ in range(int(rng.integers(1, 6))):
            z = 4.0 + 40.0 * town.uniform(0, 1) ** 1.8
            x = w + side.verge + town.uniform(0.4, max(0.5, side.pavement - 0.3))
            for k in range(int(rng.choice((1, 1, 1, 2, 3)))):
                _person(town, s * (x + 0.55 * k), z + town.uniform(-0.4, 0.4))
    for c in town.flat.crossings:
        for _ in range(int(rng.integers(0, 4))):
            _person(town, town.uniform(-w + 0.5, w - 0.5), c + town.uniform(0.4, 2.6), 0.0)
    if town.chance("near_person"):
        s = int(rng.choice((-1, 1)))
        _person(town, town.camera.x + s * town.uniform(1.6, 4.0), town.uniform(4.0, 8.5), 0.03)


def _signals(town: Town) -> None:
    rng, w = town.rng, town.road.half_width
    if not (town.flat.crossroads or town.chance("signal")):
        return
    if town.flat.crossroads:
        z = town.flat.crossroads[0] - 1.0
    else:
        z = town.flat.crossings[0] - 0.5 if town.flat.crossings else town.uniform(7, 26)
    state, rgb = int(rng.integers(3)), town.pick(((80, 84, 86), (60, 64, 62), (150, 140, 60)), 0.1)
    mast = rng.random() < 0.5
    for s in (-1, 1):
        arm = -s * town.uniform(2.2, 3.6) if mast and s > 0 else 0.0
        frame = town.facing(s * (w + 0.5), z)
        town.add(3, z, lambda c, f=frame, a=arm: street.traffic_light(c, f, state, rgb, a, rng, a == 0.0))


def _specials(town: Town) -> None:
    """Two-wheelers, ridden and parked."""
    rng, w = town.rng, town.road.half_width
    for motor, name in ((False, "cyclist"), (True, "motorcycle")):
        for _ in range(int(town.chance(name)) + int(rng.random() < 0.12)):
            _rider(town, motor)
    for motor, name in ((False, "bicycle"), (True, "motorcycle")):
        if not town.chance(name):
            continue
        s = int(rng.choice((-1, 1)))
        z, side = town.uniform(4.5, 16), town.flat.sides[s]
        x = w + side.verge + town.uniform(0.5, max(0.6, side.pavement - 0.4))
        for k in range(int(rng.integers(1, 4))):
            frame, rgb = town.facing(s * x, z + 0.5 * k, turn=town.uniform(-0.5, 0.5) + (np.pi if rng.random() < 0.5 else 0)), town.pick(town.role.cars, 0.15)
            draw = people.motorcycle if motor else people.bicycle
            town.add(3, z + 0.5 * k, lambda c, f=frame, rgb=rgb, d=draw: d(c, f, rgb))


def _rider(town: Town, motor: bool) -> None:
    rng, w = town.rng, town.road.half_width
    (shirt, trousers), rgb, seed = _outfit(town), town.pick(town.role.cars, 0.15), int(town.rng.integers(1 << 30))
    z, x = 4.5 + 14 * town.uniform(0, 1) ** 1.5, town.uniform(-w + 0.8, w - 0.8)
    if rng.random() < 0.4:
        frame = town.facing(x, z, 0.0)
        town.add(3, z, lambda c: people.upright_rider(c, frame, np.random.default_rng(seed), shirt, trousers, rgb, motor))
        return
    frame = town.facing(x, z, 0.0, town.uniform(-0.7, 0.7) + (np.pi if rng.random() < 0.5 else 0.0))

    def painter(canvas: Canvas) -> None:
        generator = np.random.default_rng(seed)
        if motor:
            people.motorcycle(canvas, frame, rgb)
            people.motorcyclist(canvas, frame, generator, shirt, trousers)
        else:
            people.bicycle(canvas, frame, rgb)
            people.cyclist(canvas, frame, generator, shirt, trousers)

    town.add(3, z, painter)


def bonnet(canvas: Canvas, rng: np.random.Generator, rgb: RGB) -> None:
    """The camera's own bonnet: a shallow arch in front of the lens, without a class."""
    cam = canvas.camera
    axes = cam.rotation()
    high, arch = float(rng.uniform(0.04, 0.12)), float(rng.uniform(0.03, 0.07))
    for k, tone in enumerate((1.0, 1.2, 0.8)):
        t = np.linspace(-1.3, 1.3, 15)
        edge = -0.5 + high * (1 - 0.28 * k) + arch * (1 - (t / 1.3) ** 2) * (1 - 0.2 * k)
        line = [(float(a), float(b)) for a, b in zip(t, edge, strict=True)] + [(1.3, -0.6), (-1.3, -0.6)]
        depth = 0.5
        points: list[Point] = []
        for x, y in line:
            p = axes[0] * x * depth / cam.focal + axes[1] * y * depth / cam.focal + axes[2] * depth
            points.append((float(p[0]) + cam.x, float(p[1]) + cam.y, float(p[2])))
        canvas.poly(points, street.NOTHING, shade(mix(rgb, (70, 72, 76), 0.35), 0.72 * tone), normal=(0.0, 0.8, -0.6), snow=0.0, convex=False)
