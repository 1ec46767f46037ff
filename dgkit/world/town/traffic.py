"""Adds road users: cars, trucks, buses, trams, pedestrians and two-wheelers."""

from math import cos, pi, sin

from dgkit.world.classes import BUS, TRAIN
from dgkit.world.colour import RGB, shade, vary
from dgkit.world.frame import Frame
from dgkit.world.things import cars, cycles, large_vehicles, people
from dgkit.world.town.ground import KERB
from dgkit.world.town.state import HOUSES, STREET, Town

_DARK: tuple[RGB, ...] = ((44, 50, 70), (52, 50, 50), (92, 84, 74), (60, 80, 120), (120, 112, 100))


def fill(town: Town) -> None:
    """Put vehicles on the road and people everywhere."""
    _lanes(town)
    _crossing_cars(town)
    _walkers(town)
    for motor, name in ((False, "cyclist"), (True, "motorcycle")):
        for _ in range(int(town.chance(name)) + int(town.odds(0.12))):
            _rider(town, motor)
    for motor, name in ((False, "bicycle"), (True, "motorcycle")):
        if town.chance(name):
            _parked_cycles(town, motor)


# -- vehicles --------------------------------------------------------------------------------------------------------


def _car(town: Town, x: float, z: float, turn: float, layer: int = STREET) -> None:
    kinds = town.role.traffic.kinds
    kind, rgb = kinds[town.integer(0, len(kinds))], town.pick(town.role.cars, 0.14)
    near = z - 2.2 * abs(cos(turn)) - 0.8 * abs(sin(turn))
    town.add(layer, near, cars.car, town.frame(x, z, turn, scale=town.uniform(0.95, 1.06)), kind, rgb)


def _big(town: Town, kind: str, x: float, z: float, turn: float) -> float:
    """Place a truck, bus or tram with its near end at ``z`` and return its length."""
    rgb, other = town.pick(town.role.cars), town.pick(town.role.cars)
    pale: RGB = vary((226, 224, 218), town.rng, 0.08)
    n = town.uniform(*{"truck": (6.5, 9.5), "bus": (9.0, 12.0), "train": (12.0, 16.0)}[kind])
    frame = town.frame(x, z + n / 2, turn)
    if kind == "truck":
        town.add(STREET, z, large_vehicles.truck, frame, rgb, pale if town.odds(0.6) else other, n, town.odds(0.6))
    elif kind == "bus":
        town.add(STREET, z, large_vehicles.coach, frame, BUS, rgb, shade(rgb, 0.75) if town.odds(0.5) else pale, n, 3.0)
    else:
        for k in range(2):
            car = town.frame(x, z + n / 2 + k * (n + 0.4), turn)
            town.add(STREET, z + k * n, large_vehicles.coach, car, TRAIN, pale, rgb, n, 3.6)
    return n


def _lanes(town: Town) -> None:
    wanted = [k for k in ("bus", "truck") if town.chance(k)]
    if town.odds(0.06):
        wanted.append("train")
    ground, w = town.ground, town.road.half_width
    for s, count in ((-1, ground.lanes[0]), (1, ground.lanes[1])):
        edge = w - ground.sides[s].parking
        for k in range(count):
            own = s > 0 and k == min(count - 1, int(town.camera.x / edge * count))
            _lane(town, s, s * edge * (k + 0.5) / count, own, wanted)
        if ground.sides[s].parking:
            _parked(town, s)
    for kind in wanted:
        _big(town, kind, -w * 0.5, town.uniform(12, 40), pi)


def _lane(town: Town, s: int, x: float, own: bool, wanted: list[str]) -> None:
    z = town.uniform(7, 16) if own else town.uniform(4.5, 16)
    if not town.chance("near_car"):
        z += town.uniform(6, 25)
    turn = 0.0 if s > 0 else pi
    while z < 110:
        if wanted and town.odds(0.5) and z > 7:
            z += _big(town, wanted.pop(), x, z, turn)
        elif town.odds(town.role.traffic.cars):
            _car(town, x + town.uniform(-0.25, 0.25), z + 2.2, turn + town.uniform(-0.04, 0.04))
            z += 4.5
        z += town.uniform(*town.role.traffic.gap)


def _parked(town: Town, s: int) -> None:
    z = town.uniform(2, 8)
    while z < 80:
        free = not town.crossed(z) and not any(c - 6 < z < c + 4 for c in town.ground.crossings)
        if free and town.odds(town.role.traffic.parked):
            _car(town, s * (town.road.half_width - 1.05), z + 2.2, 0.0 if s > 0 else pi)
        z += town.uniform(5.2, 7.5)


def _crossing_cars(town: Town) -> None:
    """Place cars in the crossing street, seen from the side."""
    cross = town.ground.crossroads
    if cross is None:
        return
    for s in cross.sides:
        for _ in range(town.integer(0, 3)):
            z = (cross.near + cross.far) / 2 + s * 2.2
            _car(town, s * town.uniform(town.road.half_width + 3, 30), z, s * pi / 2, HOUSES)


# -- people ----------------------------------------------------------------------------------------------------------


def _outfit(town: Town) -> tuple[RGB, RGB]:
    return town.pick(town.role.clothes, 0.2), town.pick(_DARK, 0.2)


def _person(town: Town, x: float, z: float, up: float = KERB) -> None:
    shirt, trousers = _outfit(town)
    scale = town.uniform(0.9, 1.08) if town.odds(0.9) else 0.7  # occasionally a child
    frame = Frame(town.road.at(x, z, up), town.camera.yaw * 0.5, scale)
    town.add(STREET, z, people.person, frame, town.seed(), shirt, trousers)


def _walkers(town: Town) -> None:
    w, (least, most) = town.road.half_width, town.role.traffic.walkers
    for s in (-1, 1):
        side = town.ground.sides[s]
        for _ in range(town.integer(least, most + 1)):
            z = 4.0 + 40.0 * town.uniform(0, 1) ** 1.8
            x = w + side.verge + town.uniform(0.4, side.pavement - 0.3)
            for k in range(int(town.rng.choice((1, 1, 1, 2, 3)))):
                _person(town, s * (x + 0.55 * k), z + town.uniform(-0.4, 0.4))
    for c in town.ground.crossings:
        for _ in range(town.integer(0, 4)):
            _person(town, town.uniform(-w + 0.5, w - 0.5), c + town.uniform(0.4, 2.6), 0.0)
    if town.chance("near_person"):
        _person(town, town.camera.x + town.side() * town.uniform(1.6, 4.0), town.uniform(4.0, 8.5), 0.03)


def _rider(town: Town, motor: bool) -> None:
    w = town.road.half_width
    (shirt, trousers), rgb, seed = _outfit(town), town.pick(town.role.cars, 0.15), town.seed()
    z, x = 4.5 + 14 * town.uniform(0, 1) ** 1.5, town.uniform(-w + 0.8, w - 0.8)
    if town.odds(0.4):
        town.add(STREET, z, cycles.rider_from_front, town.facing(x, z, 0.0), seed, shirt, trousers, rgb, motor)
        return
    frame = town.facing(x, z, 0.0, town.uniform(-0.7, 0.7) + (pi if town.odds(0.5) else 0.0))
    town.add(STREET, z, cycles.rider_from_side, frame, seed, shirt, trousers, rgb, motor)


def _parked_cycles(town: Town, motor: bool) -> None:
    s, z = town.side(), town.uniform(4.5, 16)
    side = town.ground.sides[s]
    x = s * (town.road.half_width + side.verge + town.uniform(0.5, side.pavement - 0.4))
    for k in range(town.integer(1, 4)):
        frame = town.facing(x, z + 0.5 * k, turn=town.uniform(-0.5, 0.5) + (pi if town.odds(0.5) else 0.0))
        painter = cycles.motorcycle if motor else cycles.bicycle
        town.add(STREET, z + 0.5 * k, painter, frame, town.pick(town.role.cars, 0.15))
