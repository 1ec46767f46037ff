"""Street furniture of source and prior: lamps, traffic lights, signs, and objects without a class."""

import numpy as np

from dgkit.labels import IGNORE
from dgkit.world.canvas import Canvas
from dgkit.world.classes import POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN
from dgkit.world.colour import BLACK, RGB, shade
from dgkit.world.frame import Flat, Frame, box, oval, rect

RED: RGB = (214, 28, 32)
AMBER: RGB = (250, 168, 20)
GREEN: RGB = (24, 214, 96)
WHITE: RGB = (245, 243, 238)
SIGN_KINDS = 7  # triangle, round red, round blue, octagon, square blue, diamond, direction board


def post(
    canvas: Canvas, frame: Frame, height: float, wide: float, rgb: RGB,
    top: float = 0.4, edge: float = 0.2, tone: float = 0.7,
) -> None:  # fmt: skip
    """Draw a round post with a lit and a dark side.

    ``top`` is half the width of its upper end as a share of ``wide``; the dark side starts at ``edge`` (0 middle, 1
    rim) and has ``tone`` times the colour.
    """
    a, b = wide / 2, wide * top
    canvas.poly(frame.sheet([(-a, 0), (a, 0), (b, height), (-b, height)]), POLE, rgb, snow=0.0)
    dark = [(a * edge, 0.0), (a, 0.0), (b, height), (b * edge, height)]
    canvas.poly(frame.sheet(dark, -0.01), POLE, shade(rgb, tone), snow=0.0)


def lamp(canvas: Canvas, frame: Frame, height: float, arm: float, rgb: RGB, glow: RGB) -> None:
    """Draw a street lamp whose arm reaches ``arm`` metres to the right (negative: left)."""
    canvas.casters.append((frame.floor(-0.1, 0.1, -0.1, 0.1), height * frame.scale))
    post(canvas, frame, height, 0.2, rgb)
    bar = [(0.0, height - 0.15), (arm, height + 0.2), (arm, height + 0.32), (0.0, height)]
    canvas.poly(frame.sheet(bar), POLE, rgb, snow=0.0)
    head = [(-0.4, 0.12), (0.4, 0.12), (0.3, 0.36), (-0.3, 0.36)]
    canvas.poly(frame.sheet([(arm + x, height + y) for x, y in head], -0.01), POLE, shade(rgb, 0.8), snow=0.6)
    bulb = [(-0.38, -0.02), (0.38, -0.02), (0.36, 0.2), (-0.36, 0.2)]
    points = frame.sheet([(arm + x, height + y) for x, y in bulb], -0.02)
    canvas.poly(points, POLE, (236, 232, 214), emit=glow, snow=0.0)
    canvas.lamps.append((frame.at(arm, height, 0), glow, 9.0))


def traffic_light(canvas: Canvas, frame: Frame, state: int, rgb: RGB, arm: float) -> None:
    """Draw signal heads on a pole; ``arm`` != 0 hangs another one over the road. State: 0 red, 1 amber, 2 green."""
    height = 3.4 if arm == 0 else 5.6
    post(canvas, frame, height, 0.18, rgb)
    if arm:
        canvas.poly(
            frame.sheet([(0, height - 0.2), (arm, height - 0.1), (arm, height), (0, height)]), POLE, rgb, snow=0.0
        )
        _head(canvas, frame, arm, height - 1.15, state, 1.15)
    else:
        canvas.poly(frame.sheet(rect(-0.5, -0.16, 1.9, 2.3), -0.03), TRAFFIC_LIGHT, (30, 30, 32), snow=0.0)
    _head(canvas, frame, 0.0, 2.4, state, 1.0)


def _head(canvas: Canvas, frame: Frame, x: float, y: float, state: int, size: float) -> None:
    w, h = 0.24 * size, 1.12 * size
    canvas.poly(frame.sheet(rect(x - w, x + w, y, y + h), -0.03), TRAFFIC_LIGHT, (28, 30, 30), snow=0.1)
    for k, colour in enumerate((GREEN, AMBER, RED)):
        on = k == 2 - state
        disc = frame.sheet(oval(x, y + h * (0.2 + 0.3 * k), 0.17 * size, 0.17 * size, 10), -0.04)
        canvas.poly(disc, TRAFFIC_LIGHT, colour if on else shade(colour, 0.22), emit=colour if on else BLACK, snow=0.0)


def _plates(kind: int, r: float) -> list[tuple[list[Flat], RGB]]:
    """Return the layers of a sign around its centre, back to front."""
    if kind == 0:
        inner: list[Flat] = [(-r * 0.62, -0.2), (r * 0.62, -0.2), (0.0, r * 0.55)]
        return [([(-r, -0.3), (r, -0.3), (0.0, r)], RED), (inner, WHITE)]
    if kind in (1, 2):
        bar = rect(-r * 0.12, r * 0.12, -r * 0.45, r * 0.45)
        rim, face, ink = (RED, WHITE, (30, 30, 30)) if kind == 1 else ((30, 84, 190), (52, 110, 214), WHITE)
        return [(oval(0, 0, r, r, 16), rim), (oval(0, 0, r * 0.7, r * 0.7, 16), face), (bar, ink)]
    if kind == 3:
        return [(oval(0, 0, r, r, 8), RED), (rect(-r * 0.6, r * 0.6, -0.09, 0.09), WHITE)]
    if kind == 4:
        arrow: list[Flat] = [(-r * 0.4, -r * 0.6), (r * 0.4, -r * 0.6), (0.0, r * 0.6)]
        return [(rect(-r, r, -r, r), (28, 86, 196)), (arrow, WHITE)]
    if kind == 5:
        return [(oval(0, 0, r, r, 4), WHITE), (oval(0, 0, r * 0.75, r * 0.75, 4), (244, 192, 24))]
    w, ground = 1.1, (22, 110, 70) if r > 0.42 else (30, 78, 176)
    lines = [(rect(-w * 0.7, w * 0.5, y, y + 0.13), WHITE) for y in (0.08, 0.36)]
    return [(rect(-w, w, -0.1, 0.7), WHITE), (rect(-w + 0.06, w - 0.06, -0.04, 0.64), ground), *lines]


def traffic_sign(canvas: Canvas, frame: Frame, kind: int, rgb: RGB, seed: int) -> None:
    """Draw a sign on a post; ``kind`` in 0..6 as listed at SIGN_KINDS."""
    rng = np.random.default_rng(seed)
    top, r = float(rng.uniform(2.1, 2.9)), float(rng.uniform(0.36, 0.48))
    post(canvas, frame, top + 0.2, 0.1, rgb)
    for layer, (points, colour) in enumerate(_plates(kind, r), 1):
        lifted = [(x, y + top) for x, y in points]
        canvas.poly(frame.sheet(lifted, -0.02 * layer), TRAFFIC_SIGN, colour, snow=0.0)


def litter_bin(canvas: Canvas, frame: Frame, rgb: RGB, size: tuple[float, float, float]) -> None:
    """Draw a bin, crate or cabinet: an object without a class."""
    canvas.contacts.append(frame.floor(-size[0] / 2, size[0] / 2, -size[2] / 2, size[2] / 2))
    box(canvas, frame, size, IGNORE, rgb, top=shade(rgb, 1.15), taper=0.94)


def billboard(canvas: Canvas, frame: Frame, rgb: RGB, ink: RGB, wide: float) -> None:
    """Draw an advertising panel, an object without a class."""
    canvas.contacts.append(frame.floor(-wide / 2, wide / 2, -0.1, 0.1))
    canvas.poly(frame.sheet(rect(-wide / 2, wide / 2, 0.0, 2.6)), IGNORE, (70, 72, 76), snow=0.0)
    poster = frame.sheet(rect(-wide * 0.44, wide * 0.44, 0.5, 2.45), -0.02)
    canvas.poly(poster, IGNORE, rgb, emit=shade(rgb, 0.6), snow=0.0)
    canvas.poly(frame.sheet(oval(0, 1.6, wide * 0.26, 0.5, 12), -0.03), IGNORE, ink, snow=0.0)
    canvas.poly(frame.sheet(rect(-wide * 0.3, wide * 0.3, 0.7, 0.9), -0.03), IGNORE, shade(ink, 0.7), snow=0.0)
