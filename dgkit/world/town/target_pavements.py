"""Furnishes the pavements of a target role with its own lamps, signs and signals."""

from dgkit.world.colour import RGB
from dgkit.world.role import Furniture
from dgkit.world.things import target_furniture as furniture
from dgkit.world.town.ground import KERB
from dgkit.world.town.state import STREET, Town


def lamps(town: Town, kit: Furniture, s: int, kerb: float) -> RGB:
    """Place street lamps, utility poles and bollards on side ``s`` and return the colour of the posts."""
    rgb = town.pick(kit.posts)
    kind = kit.lamps[town.integer(0, len(kit.lamps))]
    glow = kit.glow[town.integer(0, len(kit.glow))]
    gap, z, height = town.uniform(*kit.lamp_gap), town.uniform(4, 16), town.uniform(*kit.lamp_height)
    while z < 110:
        town.add(STREET, z, furniture.lamp, town.facing(s * kerb, z), kind, height, -float(s), rgb, glow)
        z += gap
    if town.odds(kit.utility_poles):
        z = town.uniform(8, 24)
        while z < 120:
            frame = town.facing(s * (kerb + 0.8), z)
            town.add(STREET, z, furniture.utility_pole, frame, town.uniform(8.5, 11.0), (104, 88, 72))
            z += 32.0
    if town.odds(kit.bollards):
        z, band = town.uniform(4, 8), town.pick(((236, 236, 230), (214, 40, 36), (236, 196, 40)))
        for _ in range(town.integer(4, 11)):
            frame = town.facing(s * (town.road.half_width + 0.4), z)
            if not town.crossed(z):
                town.add(STREET, z, furniture.bollard, frame, rgb, band)
            z += town.uniform(1.6, 2.4)
    return rgb


def signs(town: Town, kit: Furniture, s: int) -> None:
    """Place signs along side ``s``."""
    least, most = kit.signs_per_side
    for _ in range(town.integer(least, most + 1)):
        z = 5.0 + 42.0 * town.uniform(0, 1)
        kinds = [kit.signs[town.integer(0, len(kit.signs))] for _ in range(1 + int(town.odds(0.25)))]
        frame = town.facing(s * (town.road.half_width + town.uniform(0.4, 1.1)), z, turn=town.uniform(-0.25, 0.25))
        radius, top = town.uniform(*kit.sign_radius), town.uniform(2.2, 3.1)
        town.add(STREET, z, furniture.traffic_sign, frame, tuple(kinds), radius, top, town.pick(kit.posts))


def signals(town: Town, kit: Furniture, z: float) -> None:
    """Place traffic lights on both sides of the road at ``z``."""
    state, box = town.integer(0, 3), town.pick(kit.signal_boxes, 0.05)
    rgb, over = town.pick(kit.posts), town.odds(0.65)
    for s in (-1, 1):
        arm = -s * town.uniform(2.4, 4.6) if over and (s > 0 or kit.signals != "slim") else 0.0
        frame = town.facing(s * (town.road.half_width + 0.5), z, KERB)
        town.add(STREET, z, furniture.traffic_light, frame, kit.signals, state, rgb, box, arm)
