"""Settings of a role: colours, camera, street plan, furniture and weather, as ranges to draw from.

The defaults are those of ``source`` and ``prior``, which models are trained on: they must not change.
"""

from dataclasses import dataclass, field

from dgkit.world.colour import RGB
from dgkit.world.light.climate import Climate
from dgkit.world.ranges import Range


@dataclass(frozen=True)
class Palette:
    """Colours of one town."""

    houses: tuple[RGB, ...]
    trims: tuple[RGB, ...]
    roofs: tuple[RGB, ...]
    leaves: tuple[RGB, ...]
    grass: RGB
    road: RGB
    paving: RGB
    kerb: RGB
    paint: RGB


@dataclass(frozen=True)
class View:
    """Camera pose and focal length.

    ``height`` [m], ``pitch`` [rad, down positive], ``focal`` [image heights], standard deviation of ``yaw`` [rad];
    ``place`` is the position between the road centre (0) and the edge of the right lanes (1).
    """

    height: Range = (1.3, 2.5)
    pitch: Range = (-0.03, 0.11)
    focal: Range = (1.05, 1.7)
    yaw: float = 0.09
    place: Range = (0.15, 0.92)


@dataclass(frozen=True)
class Plan:
    """Road, pavements and houses: ranges are widths and heights in metres, single numbers are probabilities."""

    lane: Range = (3.0, 3.6)
    second_lane: float = 0.35
    verge: float = 0.48
    pavement: Range = (2.8, 6.0)
    lawn: float = 0.55
    parking: float = 0.42
    tall: Range = (5.0, 21.0)  # houses at the pavement
    low: Range = (4.5, 12.0)  # houses behind a lawn
    open_sky: float = 0.3  # no towers on the horizon
    modern: float = 0.25
    shop: float = 0.45
    gable: float = 0.45
    brick: float = 0.5
    balcony: float = 0.25
    trees: float = 0.62
    tree_height: Range = (4.5, 7.5)
    tree_kinds: tuple[float, float, float] = (0.62, 0.16, 0.22)  # broad, conifer, slim
    barriers: tuple[float, float, float] = (0.36, 0.44, 0.2)  # wall, fence, hedge


@dataclass(frozen=True)
class Furniture:
    """Street furniture of a country; the names are those of :mod:`dgkit.world.things.target_furniture`."""

    lamps: tuple[str, ...]
    lamp_gap: Range
    lamp_height: Range
    glow: tuple[RGB, ...]  # colours of the street lamps at night
    posts: tuple[RGB, ...]
    signs: tuple[str, ...]
    sign_radius: Range
    signs_per_side: tuple[int, int]  # least, most
    signals: str
    signal_boxes: tuple[RGB, ...]
    bollards: float = 0.0  # probability on one side of the street
    utility_poles: float = 0.0  # probability on one side of the street


@dataclass(frozen=True)
class Traffic:
    """Density of traffic.

    ``gap`` is the free length between cars [m], ``walkers`` the least and greatest number of groups on a pavement.
    """

    cars: float = 0.75
    gap: Range = (4.0, 26.0)
    parked: float = 0.7
    walkers: tuple[int, int] = (1, 5)
    kinds: tuple[str, ...] = ("sedan", "hatch", "suv", "van")


_CARS: tuple[RGB, ...] = (
    (196, 30, 34), (28, 68, 168), (232, 232, 228), (44, 46, 52), (158, 162, 168), (96, 102, 112),
    (24, 110, 84), (226, 178, 40), (120, 26, 40), (206, 208, 212), (58, 120, 176), (210, 104, 36),
)  # fmt: skip
_CLOTHES: tuple[RGB, ...] = (
    (190, 40, 46), (40, 74, 150), (236, 232, 222), (46, 46, 52), (60, 128, 84), (222, 176, 60), (128, 72, 136),
    (96, 140, 186), (214, 118, 54), (110, 108, 104), (226, 140, 158),
)  # fmt: skip

# Probability that a scene gets the object on purpose (traffic and pavements add their own).
CHANCES = {
    "train": 0.2, "bus": 0.3, "truck": 0.3, "motorcycle": 0.34, "cyclist": 0.42, "bicycle": 0.38,
    "signal": 0.42, "crossing": 0.42, "crossroads": 0.34, "near_person": 0.6, "near_car": 0.5, "park": 0.22,
}  # fmt: skip


@dataclass(frozen=True)
class Role:
    """One domain of the world; ``climate`` and ``furniture`` are None for the roles that models are trained on."""

    palettes: tuple[Palette, ...]
    styles: tuple[tuple[str, float], ...]  # style -> probability
    bonnet: float  # share of scenes with the bonnet of the camera's own car
    labelled: bool  # whether labels are written to disk
    centre_paint: bool  # centre line in the palette's paint, otherwise white
    cars: tuple[RGB, ...] = _CARS
    clothes: tuple[RGB, ...] = _CLOTHES
    chances: dict[str, float] = field(default_factory=lambda: dict(CHANCES))
    view: View = View()
    plan: Plan = Plan()
    traffic: Traffic = Traffic()
    furniture: Furniture | None = None
    climate: Climate | None = None
    round_robin: bool = False  # styles follow the scene number instead of being drawn at random: exact shares
