"""Furnishes the pavements: lamps, trees, signs, traffic lights, and clutter without a class."""

from dgkit.world.colour import RGB, shade
from dgkit.world.things import furniture
from dgkit.world.town import target_pavements
from dgkit.world.town.frontage import plant, shrub
from dgkit.world.town.ground import KERB
from dgkit.world.town.state import STREET, Town

_WARM_LAMP: RGB = (255, 214, 140)
_COLD_LAMP: RGB = (228, 236, 255)


def fill(town: Town) -> None:
    """Furnish both pavements."""
    for s in (-1, 1):
        _row(town, s)
    _signals(town)


def _row(town: Town, s: int) -> None:
    side, w, plan = town.ground.sides[s], town.road.half_width, town.role.plan
    kerb = w + (side.verge * 0.5 if side.verge else 0.5)
    kit = town.role.furniture
    rgb = _lamps(town, s, kerb) if kit is None else target_pavements.lamps(town, kit, s, kerb)
    if town.odds(plan.trees):
        z, gap = town.uniform(5, 16), town.uniform(7, 14)
        while z < 100:
            if not town.crossed(z):
                plant(town, s * (kerb + 0.3), z, STREET, town.uniform(*plan.tree_height))
            z += gap * town.uniform(0.8, 1.3)
    if kit is None:
        _signs(town, s, rgb)
    else:
        target_pavements.signs(town, kit, s)
    for _ in range(town.integer(0, 4)):
        shrub(town, s * (w + side.width + town.uniform(0.2, 1.2)), town.uniform(4, 40), STREET)
    if town.odds(0.4):
        _clutter(town, s)


def _lamps(town: Town, s: int, kerb: float) -> RGB:
    """Place street lamps on one side and return the colour of their posts."""
    rgb = town.pick(((110, 114, 118), (70, 76, 74), (150, 152, 154)))
    glow = _WARM_LAMP if town.odds(0.7) else _COLD_LAMP
    gap, z, height = town.uniform(15, 26), town.uniform(3, 14), town.uniform(5.5, 8)
    while z < 110:
        town.add(STREET, z, furniture.lamp, town.facing(s * kerb, z), height, -s * 1.6, rgb, glow)
        z += gap
    return rgb


def _signs(town: Town, s: int, rgb: RGB) -> None:
    for _ in range(town.integer(1, 4)):
        z = town.uniform(5, 42)
        frame = town.facing(s * (town.road.half_width + town.uniform(0.4, 0.9)), z)
        town.add(STREET, z, furniture.traffic_sign, frame, town.integer(0, furniture.SIGN_KINDS), rgb, town.seed())


def _clutter(town: Town, s: int) -> None:
    side = town.ground.sides[s]
    z, x = town.uniform(5, 25), town.road.half_width + side.verge + town.uniform(0.6, side.pavement - 0.6)
    rgb = town.pick(town.role.cars, 0.2)
    if town.odds(0.4):
        ink, wide = town.pick(town.role.clothes, 0.2), town.uniform(1.3, 2.2)
        town.add(STREET, z, furniture.billboard, town.facing(s * x, z), rgb, ink, wide)
        return
    size = (town.uniform(0.5, 0.9), town.uniform(0.8, 1.3), town.uniform(0.5, 0.9))
    town.add(STREET, z, furniture.litter_bin, town.frame(s * x, z, up=KERB), shade(rgb, 0.7), size)


def _signals(town: Town) -> None:
    ground = town.ground
    if ground.crossroads:
        z = ground.crossroads.near - 1.0
    elif town.chance("signal"):
        z = ground.crossings[0] - 0.5 if ground.crossings else town.uniform(7, 26)
    else:
        return
    if town.role.furniture is not None:
        target_pavements.signals(town, town.role.furniture, z)
        return
    state, rgb = town.integer(0, 3), town.pick(((80, 84, 86), (60, 64, 62), (150, 140, 60)))
    mast = town.odds(0.5)
    for s in (-1, 1):
        arm = -town.uniform(2.2, 3.6) if mast and s > 0 else 0.0
        town.add(STREET, z, furniture.traffic_light, town.facing(s * (town.road.half_width + 0.5), z), state, rgb, arm)
