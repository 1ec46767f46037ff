"""Street furniture and greenery: poles, lamps, lights, signs, bins, walls, fences, trees and bushes."""

from math import pi

import numpy as np

from dgkit.world.camera import Point
from dgkit.world.canvas import BRICK, FOLIAGE, PLAIN, RGB, Canvas
from dgkit.world.frame import Flat, Frame, box, mix, oval, shade, vary

WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION, NOTHING = 3, 4, 5, 6, 7, 8, 255
_RED: RGB = (214, 28, 32)
_AMBER: RGB = (250, 168, 20)
_GREEN: RGB = (24, 214, 96)


def _post(canvas: Canvas, frame: Frame, height: float, wide: float, rgb: RGB, right: float = 0.0) -> None:
    a, b = wide / 2, wide * 0.4
    canvas.poly(frame.sheet([(right - a, 0), (right + a, 0), (right + b, height), (right - b, height)]), POLE, rgb, snow=0)
    canvas.poly(frame.sheet([(right + a * 0.2, 0), (right + a, 0), (right + b, height), (right + b * 0.2, height)], -0.01), POLE, shade(rgb, 0.7), snow=0)


def lamp(canvas: Canvas, frame: Frame, height: float, arm: float, rgb: RGB, glow: RGB) -> None:
    """A street lamp whose arm reaches ``arm`` metres to the right (negative: left)."""
    canvas.casters.append((frame.floor(-0.1, 0.1, -0.1, 0.1), height * frame.scale))
    _post(canvas, frame, height, 0.2, rgb)
    canvas.poly(frame.sheet([(0, height - 0.15), (arm, height + 0.2), (arm, height + 0.32), (0, height)]), POLE, rgb, snow=0)
    head = [(arm - 0.4, height + 0.12), (arm + 0.4, height + 0.12), (arm + 0.3, height + 0.36), (arm - 0.3, height + 0.36)]
    canvas.poly(frame.sheet(head, -0.01), POLE, shade(rgb, 0.8), snow=0.6)
    bulb = [(arm - 0.38, height - 0.02), (arm + 0.38, height - 0.02), (arm + 0.36, height + 0.2), (arm - 0.36, height + 0.2)]
    canvas.poly(frame.sheet(bulb, -0.02), POLE, (236, 232, 214), emit=glow, snow=0)
    canvas.lamps.append((frame.at(arm, height, 0), glow, 9.0))


def traffic_light(
    canvas: Canvas, frame: Frame, state: int, rgb: RGB, arm: float, rng: np.random.Generator, walk: bool = False
) -> None:
    """Signal heads on a pole; ``arm`` != 0 hangs another head over the road. State 0 red, 1 amber, 2 green."""
    height = 3.4 if arm == 0 else 5.6
    _post(canvas, frame, height, 0.18, rgb)
    if arm:
        canvas.poly(frame.sheet([(0, height - 0.2), (arm, height - 0.1), (arm, height), (0, height)]), POLE, rgb, snow=0)
        _head(canvas, frame, arm, height - 1.15, state, 1.15)
    _head(canvas, frame, 0.0, 2.4, state, 1.0)
    if walk:
        canvas.poly(frame.sheet([(-0.5, 1.9), (-0.16, 1.9), (-0.16, 2.3), (-0.5, 2.3)], -0.03), LIGHT, (30, 30, 32), snow=0)


def _head(canvas: Canvas, frame: Frame, x: float, y: float, state: int, size: float) -> None:
    w, h = 0.24 * size, 1.12 * size
    canvas.poly(frame.sheet([(x - w, y), (x + w, y), (x + w, y + h), (x - w, y + h)], -0.03), LIGHT, (28, 30, 30), snow=0.1)
    for k, colour in enumerate((_GREEN, _AMBER, _RED)):
        on = k == 2 - state
        disc = oval(x, y + h * (0.2 + 0.3 * k), 0.17 * size, 0.17 * size, 10)
        canvas.poly(frame.sheet(disc, -0.04), LIGHT, colour if on else shade(colour, 0.22), emit=colour if on else (0, 0, 0), snow=0)


def traffic_sign(canvas: Canvas, frame: Frame, kind: int, rgb: RGB, rng: np.random.Generator) -> None:
    """A sign on a post: 0 triangle, 1 round red, 2 round blue, 3 octagon, 4 square blue, 5 diamond, 6 direction board."""
    top = float(rng.uniform(2.1, 2.9))
    _post(canvas, frame, top + 0.2, 0.1, rgb)
    r = float(rng.uniform(0.36, 0.48))

    def plate(points: list[Flat], colour: RGB, layer: int) -> None:
        canvas.poly(frame.sheet(points, -0.02 * layer), SIGN, colour, snow=0)

    if kind == 0:
        plate([(-r, top - 0.3), (r, top - 0.3), (0, top + r)], _RED, 1)
        plate([(-r * 0.62, top - 0.2), (r * 0.62, top - 0.2), (0, top + r * 0.55)], (244, 242, 236), 2)
    elif kind in (1, 2):
        plate(oval(0, top, r, r, 16), _RED if kind == 1 else (30, 84, 190), 1)
        plate(oval(0, top, r * 0.7, r * 0.7, 16), (246, 244, 240) if kind == 1 else (52, 110, 214), 2)
        plate([(-r * 0.12, top - r * 0.45), (r * 0.12, top - r * 0.45), (r * 0.12, top + r * 0.45), (-r * 0.12, top + r * 0.45)], (30, 30, 30) if kind == 1 else (245, 245, 245), 3)
    elif kind == 3:
        plate(oval(0, top, r, r, 8), _RED, 1)
        plate([(-r * 0.6, top - 0.09), (r * 0.6, top - 0.09), (r * 0.6, top + 0.09), (-r * 0.6, top + 0.09)], (246, 244, 240), 2)
    elif kind == 4:
        plate([(-r, top - r), (r, top - r), (r, top + r), (-r, top + r)], (28, 86, 196), 1)
        plate([(-r * 0.4, top - r * 0.6), (r * 0.4, top - r * 0.6), (0, top + r * 0.6)], (246, 246, 246), 2)
    elif kind == 5:
        plate([(-r, top), (0, top - r), (r, top), (0, top + r)], (244, 244, 240), 1)
        plate([(-r * 0.75, top), (0, top - r * 0.75), (r * 0.75, top), (0, top + r * 0.75)], (244, 192, 24), 2)
    else:
        w = 1.1
        plate([(-w, top - 0.1), (w, top - 0.1), (w, top + 0.7), (-w, top + 0.7)], (246, 246, 242), 1)
        plate([(-w + 0.06, top - 0.04), (w - 0.06, top - 0.04), (w - 0.06, top + 0.64), (-w + 0.06, top + 0.64)], (22, 110, 70) if r > 0.42 else (30, 78, 176), 2)
        for y in (0.08, 0.36):
            plate([(-w * 0.7, top + y), (w * 0.5, top + y), (w * 0.5, top + y + 0.13), (-w * 0.7, top + y + 0.13)], (240, 240, 236), 3)


def bin_(canvas: Canvas, frame: Frame, rgb: RGB, size: tuple[float, float, float]) -> None:
    """A bin, crate or cabinet: an object without a class."""
    canvas.contacts.append(frame.floor(-size[0] / 2, size[0] / 2, -size[2] / 2, size[2] / 2))
    box(canvas, frame, size, NOTHING, rgb, top=shade(rgb, 1.15), taper=0.94)


def billboard(canvas: Canvas, frame: Frame, rgb: RGB, ink: RGB, wide: float) -> None:
    """An advertising panel without a class."""
    canvas.contacts.append(frame.floor(-wide / 2, wide / 2, -0.1, 0.1))
    canvas.poly(frame.sheet([(-wide / 2, 0), (wide / 2, 0), (wide / 2, 2.6), (-wide / 2, 2.6)]), NOTHING, (70, 72, 76), snow=0)
    canvas.poly(frame.sheet([(-wide * 0.44, 0.5), (wide * 0.44, 0.5), (wide * 0.44, 2.45), (-wide * 0.44, 2.45)], -0.02), NOTHING, rgb, emit=shade(rgb, 0.6), snow=0)
    canvas.poly(frame.sheet(oval(0, 1.6, wide * 0.26, 0.5, 12), -0.03), NOTHING, ink, snow=0)
    canvas.poly(frame.sheet([(-wide * 0.3, 0.7), (wide * 0.3, 0.7), (wide * 0.3, 0.9), (-wide * 0.3, 0.9)], -0.03), NOTHING, shade(ink, 0.7), snow=0)


def wall(canvas: Canvas, a: Point, b: Point, height: float, rgb: RGB, thick: Point) -> None:
    """A wall from a to b; ``thick`` is the vector from its near to its far face."""
    up = (0.0, height, 0.0)
    canvas.poly([a, b, _add(b, up), _add(a, up)], WALL, rgb, mat=BRICK)
    top = [_add(a, up), _add(b, up), _add(_add(b, up), thick), _add(_add(a, up), thick)]
    canvas.poly([a, _add(a, thick), top[3], top[0]], WALL, shade(rgb, 0.92), mat=BRICK)
    canvas.poly(top, WALL, shade(rgb, 1.12), snow=1.0)
    lip = (0.0, height - 0.14, 0.0)
    canvas.poly([_add(a, lip), _add(b, lip), _add(b, up), _add(a, up)], WALL, shade(rgb, 1.15), snow=0.7)


def _add(p: Point, q: Point) -> Point:
    return (p[0] + q[0], p[1] + q[1], p[2] + q[2])


def fence(canvas: Canvas, a: Point, b: Point, height: float, rgb: RGB, kind: int) -> None:
    """A fence from a to b: 0 boards, 1 pickets with gaps, 2 guard rail, 3 mesh between posts."""
    p, q = np.array(a), np.array(b)
    length = float(np.linalg.norm(q - p))

    def bars(t0: np.ndarray, t1: np.ndarray, low: float, high: float) -> np.ndarray:
        low_v, high_v = np.array([0, low, 0]), np.array([0, high, 0])
        x, y = p + (q - p) * t0[:, None], p + (q - p) * t1[:, None]
        return np.stack([x + low_v, y + low_v, y + high_v, x + high_v], 1)

    whole0, whole1 = np.linspace(0, 1, 7)[:-1], np.linspace(0, 1, 7)[1:]
    if kind == 0:
        canvas.poly([a, b, _add(b, (0, height, 0)), _add(a, (0, height, 0))], FENCE, rgb, snow=0.1)
        t = np.arange(0, 1, 0.9 / length)
        canvas.quads(bars(t, t + 0.06 / length, 0, height), FENCE, shade(rgb, 0.72), snow=0)
    elif kind == 1:
        t = np.arange(0, 1, 0.34 / length)
        canvas.quads(bars(t, t + 0.19 / length, 0, height), FENCE, rgb, snow=0.1)
    elif kind == 2:
        t = np.arange(0, 1, 2.0 / length)
        canvas.quads(bars(t, t + 0.12 / length, 0, height * 0.6), FENCE, shade(rgb, 0.7), snow=0)
        canvas.quads(bars(whole0, whole1, height * 0.42, height * 0.72), FENCE, rgb, snow=0.1)
        canvas.quads(bars(whole0, whole1, height * 0.54, height * 0.6), FENCE, shade(rgb, 0.75), snow=0)
    else:
        canvas.poly([a, b, _add(b, (0, height, 0)), _add(a, (0, height, 0))], FENCE, shade(rgb, 0.8), snow=0)
        t = np.arange(0, 1, 2.2 / length)
        canvas.quads(bars(t, t + 0.12 / length, 0, height + 0.1), FENCE, shade(rgb, 0.55), snow=0)
    rails = (height * 0.93,) if kind in (0, 3) else (height * 0.25, height * 0.8) if kind == 1 else ()
    for y in rails:
        canvas.quads(bars(whole0, whole1, y, y + 0.1), FENCE, shade(rgb, 0.9), snow=0.6)


def tree(canvas: Canvas, frame: Frame, rng: np.random.Generator, leaf: RGB, height: float, kind: int) -> None:
    """A tree: 0 broad crown, 1 conifer, 2 slim crown. Trunk and crown share the class vegetation."""
    trunk: RGB = vary((92, 72, 54), rng, 0.15)
    wide = 0.04 * height + 0.08
    canvas.contacts.append(frame.floor(-wide, wide, -wide, wide))
    top = height * (0.62 if kind != 1 else 0.3)
    canvas.poly(frame.sheet([(-wide, 0), (wide, 0), (wide * 0.6, top), (-wide * 0.6, top)]), VEGETATION, trunk, snow=0)
    canvas.poly(frame.sheet([(wide * 0.1, 0), (wide, 0), (wide * 0.6, top), (wide * 0.1, top)], -0.01), VEGETATION, shade(trunk, 0.7), snow=0)
    r = height * (0.3 if kind == 0 else 0.19)
    canvas.casters.append((frame.floor(-r, r, -r, r), height * frame.scale))
    if kind == 1:
        for k in range(5):
            y, w = height * (0.16 + 0.16 * k), height * 0.24 * (1 - 0.17 * k)
            cone = [(-w, y), (-w * 0.5, y - height * 0.03), (0, y), (w * 0.5, y - height * 0.03), (w, y), (0, y + height * 0.26)]
            canvas.poly(frame.sheet(cone, -0.02 * k), VEGETATION, shade(leaf, 0.72 + 0.06 * k), snow=0.55, mat=FOLIAGE, convex=False)
        return
    crown(canvas, frame, rng, leaf, (0.0, height - r * (1.0 if kind == 0 else 1.7)), r, r * (0.85 if kind == 0 else 1.7))


def crown(
    canvas: Canvas, frame: Frame, rng: np.random.Generator, leaf: RGB, at: Flat, a: float, b: float
) -> None:
    """Overlapping leaf masses, dark below and behind, light above and in front."""
    size = canvas.pixels_per_metre(frame.origin[2]) * a * frame.scale
    count = int(np.clip(size * 0.8, 8, 30))
    n = 13 if size > 10 else 8
    angle, dist = rng.uniform(0, 2 * pi, 30), np.sqrt(rng.uniform(0, 1, 30))
    radius, jitter = rng.uniform(0.28, 0.46, 30), rng.uniform(0.9, 1.08, (30, n))
    tint = rng.uniform(-0.06, 0.06, 30)
    blobs = [(dist[k] * np.cos(angle[k]) * 0.75, dist[k] * np.sin(angle[k]) * 0.75, radius[k], k) for k in range(count)]
    blobs.sort(key=lambda blob: blob[1])
    hull = [(at[0] + x * 0.86, at[1] + y * 0.86) for x, y in oval(0, 0, a, b, 12)]
    if not canvas.poly(frame.sheet(hull), VEGETATION, shade(leaf, 0.6), snow=0.1, mat=FOLIAGE):
        return
    x, y, r = (np.array([blob[i] for blob in blobs]) for i in range(3))
    k = np.array([blob[3] for blob in blobs])
    t = np.linspace(0, 2 * pi, n, endpoint=False)
    right = at[0] + (x[:, None] + r[:, None] * jitter[k] * np.cos(t)) * a
    up = at[1] + (y[:, None] + r[:, None] * jitter[k] * np.sin(t)) * b
    fx, fz, s = frame.fx, frame.fz, frame.scale
    ox, oy, oz = frame.origin
    corners = np.stack([ox + right * fz, oy + up * s, oz - right * fx], -1)
    light = 0.86 + 0.24 * y + tint[k] - 0.06 * x
    rgb = np.clip(np.array(leaf) * light[:, None], 0, 255)
    normals = np.stack([-0.35 + x * 0.8, 0.45 + 0.5 * y, np.full(len(x), -0.5)], -1)
    canvas.leaves(corners, VEGETATION, rgb, normals, np.clip(0.15 + 0.75 * y + 6 * tint[k], 0, 0.9), FOLIAGE)


def bush(canvas: Canvas, frame: Frame, rng: np.random.Generator, leaf: RGB, wide: float, height: float) -> None:
    """A low round shrub."""
    canvas.contacts.append(frame.floor(-wide * 0.9, wide * 0.9, -0.4, 0.4))
    crown(canvas, frame, rng, leaf, (0.0, height * 0.45), wide, height * 0.6)


def hedge(canvas: Canvas, a: Point, b: Point, height: float, leaf: RGB, thick: Point) -> None:
    """A clipped hedge from a to b."""
    up = (0.0, height, 0.0)
    canvas.poly([a, b, _add(b, up), _add(a, up)], VEGETATION, shade(leaf, 0.8), mat=FOLIAGE, snow=0.15)
    canvas.poly([a, _add(a, thick), _add(_add(a, thick), up), _add(a, up)], VEGETATION, shade(leaf, 0.72), mat=FOLIAGE, snow=0.1)
    top = [_add(a, up), _add(b, up), _add(_add(b, up), thick), _add(_add(a, up), thick)]
    canvas.poly(top, VEGETATION, shade(leaf, 1.1), mat=FOLIAGE, snow=1.0)


__all__ = ["PLAIN", "bush", "crown", "fence", "hedge", "lamp", "mix", "traffic_light", "traffic_sign", "tree", "wall"]
