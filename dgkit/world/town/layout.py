"""Composition of a scene: camera and road, then everything on them, then the order of drawing."""

import numpy as np

from dgkit.labels import IGNORE
from dgkit.world.camera import Camera, Point, Road
from dgkit.world.canvas import Canvas
from dgkit.world.colour import RGB, mix, shade
from dgkit.world.ranges import uniform
from dgkit.world.role import Plan, Role
from dgkit.world.town import frontage, ground, pavements, traffic
from dgkit.world.town.state import BACKDROP, Town


def compose(rng: np.random.Generator, role: Role) -> Town:
    """Compose a scene; every random choice of its content is made here, before anything is drawn."""
    town = _plan(rng, role)
    frontage.fill(town)
    pavements.fill(town)
    traffic.fill(town)
    return town


def _plan(rng: np.random.Generator, role: Role) -> Town:
    """Choose the camera, the road and the widths of its sides."""
    palette = role.palettes[int(rng.integers(len(role.palettes)))]
    plan, view = role.plan, role.view
    lanes = (1 + int(rng.random() < plan.second_lane), 1 + int(rng.random() < plan.second_lane))
    lane = uniform(rng, *plan.lane)
    sides = {s: _side(rng, plan) for s in (-1, 1)}
    half = lane * max(lanes) + max(sides[-1].parking, sides[1].parking)
    road = Road(half, float(rng.normal(0, 0.0007)), float(rng.normal(0, 0.006)), uniform(rng, -2e-5, 1e-4))
    camera = Camera(
        x=uniform(rng, *view.place) * (half - sides[1].parking),
        y=uniform(rng, *view.height),
        yaw=float(rng.normal(0, view.yaw)),
        pitch=uniform(rng, *view.pitch),
        focal=uniform(rng, *view.focal),
    )
    crossroads, crossings = _crossings(rng, role)
    centre, zebra = int(rng.integers(3)), bool(rng.random() < 0.75)
    kerbed = role.furniture is not None
    flat = ground.Ground(road, sides, crossroads, crossings, lanes, centre, zebra, kerbed)
    return Town(rng, role, palette, camera, road, flat)


def _crossings(rng: np.random.Generator, role: Role) -> tuple[ground.Crossroads | None, tuple[float, ...]]:
    """Draw a crossing street and the crosswalks."""
    if rng.random() < role.chances["crossroads"]:
        near, wide = uniform(rng, 11, 34), uniform(rng, 8, 14)
        arms = ((-1, 1), (-1,), (1,))[int(rng.integers(3))]
        return ground.Crossroads(near, near + wide, arms), (near - 4.0,) if rng.random() < 0.75 else ()
    return None, (uniform(rng, 5, 24),) if rng.random() < role.chances["crossing"] else ()


def _side(rng: np.random.Generator, plan: Plan) -> ground.Roadside:
    return ground.Roadside(
        verge=uniform(rng, 1.2, 4.0) if rng.random() < plan.verge else 0.0,
        pavement=uniform(rng, *plan.pavement),
        lawn=bool(rng.random() < plan.lawn),
        parking=2.2 if rng.random() < plan.parking else 0.0,
    )


def paint(town: Town, canvas: Canvas) -> None:
    """Draw the backdrop, the ground, then everything on it, far to near."""
    centre = town.palette.paint if town.role.centre_paint else ground.WHITE
    queue = sorted(town.items, key=lambda item: (item[0], -item[1]))
    for layer, _, painter, arguments in queue:
        if layer == BACKDROP:
            painter(canvas, *arguments)
    ground.draw(canvas, town.ground, town.palette, centre, np.random.default_rng(town.seed()))
    for layer, _, painter, arguments in queue:
        if layer != BACKDROP:
            painter(canvas, *arguments)
    if town.odds(town.role.bonnet):
        _bonnet(canvas, town.pick(town.role.cars), town.uniform(0.04, 0.12), town.uniform(0.03, 0.07))


def _bonnet(canvas: Canvas, rgb: RGB, high: float, arch: float) -> None:
    """Draw the bonnet of the camera's own car: an arch without a class; ``high`` and ``arch`` in image heights."""
    cam = canvas.camera
    axes = cam.rotation()
    depth = 0.5
    t = np.linspace(-1.3, 1.3, 15)
    for k, tone in enumerate((1.0, 1.2, 0.8)):
        edge = -0.5 + high * (1 - 0.28 * k) + arch * (1 - (t / 1.3) ** 2) * (1 - 0.2 * k)
        points: list[Point] = []
        for x, y in [*zip(t.tolist(), edge.tolist(), strict=True), (1.3, -0.6), (-1.3, -0.6)]:
            p = depth * (axes[0] * x / cam.focal + axes[1] * y / cam.focal + axes[2])
            points.append((float(p[0]) + cam.x, float(p[1]) + cam.y, float(p[2])))
        colour = shade(mix(rgb, (70, 72, 76), 0.35), 0.72 * tone)
        canvas.poly(points, IGNORE, colour, normal=(0.0, 0.8, -0.6), snow=0.0, convex=False)
