"""Street furniture of the target roles by name: lamps, traffic lights, signs, bollards and utility poles."""

from collections.abc import Callable
from itertools import pairwise
from math import cos, pi, sin

import numpy as np

from dgkit.world.canvas import Canvas
from dgkit.world.classes import POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN
from dgkit.world.colour import BLACK, RGB, shade
from dgkit.world.frame import Flat, Frame, oval, rect
from dgkit.world.things.furniture import AMBER, GREEN, RED, WHITE, post

_BULB: RGB = (226, 224, 214)
_INK: RGB = (28, 28, 30)
Plate = tuple[list[Flat], RGB]
"""Outline and colour of one layer of a sign."""


def _post(canvas: Canvas, frame: Frame, height: float, wide: float, rgb: RGB) -> None:
    post(canvas, frame, height, wide, rgb, top=0.36, edge=0.1, tone=0.66)


# -- lamps -----------------------------------------------------------------------------------------------------------


def lamp(canvas: Canvas, frame: Frame, kind: str, height: float, side: float, rgb: RGB, glow: RGB) -> None:
    """Draw a street lamp; ``kind`` is a key of :data:`LAMPS`, ``side`` is -1 or 1, towards the road."""
    canvas.casters.append((frame.floor(-0.07, 0.07, -0.07, 0.07), height * frame.scale))
    LAMPS[kind](canvas, frame, height, side, rgb, glow)


def _light(canvas: Canvas, frame: Frame, points: list[Flat], glow: RGB, radius: float) -> None:
    canvas.poly(frame.sheet(points, -0.03), POLE, _BULB, emit=glow, snow=0.0)
    x, y = np.mean(points, 0)
    canvas.lamps.append((frame.at(float(x), float(y)), glow, radius))


def _globe(canvas: Canvas, frame: Frame, height: float, side: float, rgb: RGB, glow: RGB) -> None:
    height *= 0.62
    _post(canvas, frame, height, 0.13, rgb)
    _post(canvas, frame, 0.7, 0.24, rgb)
    _light(canvas, frame, oval(0, height + 0.22, 0.24, 0.26, 12), glow, 6.0)


def _lantern(canvas: Canvas, frame: Frame, height: float, side: float, rgb: RGB, glow: RGB) -> None:
    height *= 0.7
    _post(canvas, frame, height, 0.12, rgb)
    cap = [(-0.3, height + 0.5), (0.3, height + 0.5), (0.0, height + 0.78)]
    canvas.poly(frame.sheet(cap), POLE, shade(rgb, 0.8), snow=0.8)
    pane = [(-0.15, height), (0.15, height), (0.24, height + 0.5), (-0.24, height + 0.5)]
    _light(canvas, frame, pane, glow, 6.5)


def _cobra(canvas: Canvas, frame: Frame, height: float, side: float, rgb: RGB, glow: RGB) -> None:
    height *= 1.25
    _post(canvas, frame, height, 0.2, rgb)
    reach = 2.4 * side
    t = np.linspace(0, 1, 6)
    low = [(reach * float(v), height - 0.2 + 0.9 * sin(float(v) * pi / 2)) for v in t]
    for a, b in pairwise(low):
        canvas.poly(frame.sheet([a, b, (b[0], b[1] + 0.1), (a[0], a[1] + 0.1)]), POLE, rgb, snow=0.1)
    head = [(reach * x, height + y) for x, y in ((0.9, 0.66), (1.3, 0.62), (1.28, 0.82), (0.9, 0.86))]
    canvas.poly(frame.sheet(head, -0.01), POLE, shade(rgb, 0.85), snow=0.5)
    _light(canvas, frame, [(reach * x, height + y) for x, y in ((1.0, 0.6), (1.28, 0.57), (1.28, 0.66), (1.0, 0.7))],
           glow, 11.0)  # fmt: skip


def _twin(canvas: Canvas, frame: Frame, height: float, side: float, rgb: RGB, glow: RGB) -> None:
    _post(canvas, frame, height, 0.15, rgb)
    canvas.poly(frame.sheet(rect(-0.9, 0.9, height - 0.08, height)), POLE, rgb, snow=0.4)
    for x in (-0.9, 0.9):
        _light(canvas, frame, oval(x, height - 0.22, 0.2, 0.16, 10), glow, 6.5)


def _stick(canvas: Canvas, frame: Frame, height: float, side: float, rgb: RGB, glow: RGB) -> None:
    _post(canvas, frame, height, 0.11, rgb)
    _light(canvas, frame, rect(min(0.0, 0.7 * side), max(0.0, 0.7 * side), height - 0.02, height + 0.1), glow, 8.0)


LAMPS: dict[str, Callable[[Canvas, Frame, float, float, RGB, RGB], None]] = {
    "globe": _globe, "lantern": _lantern, "cobra": _cobra, "twin": _twin, "stick": _stick,
}  # fmt: skip


# -- signals ---------------------------------------------------------------------------------------------------------


def traffic_light(canvas: Canvas, frame: Frame, kind: str, state: int, post_rgb: RGB, box: RGB, arm: float) -> None:
    """Draw traffic lights on a post.

    ``kind``: "slim" (Europe), "mast" (America) or "level" (heads lie flat). ``state``: 0 red, 1 amber, 2 green.
    """
    if kind == "slim":
        _post(canvas, frame, 3.2, 0.12, post_rgb)
        _head(canvas, frame, 0.0, 2.25, 0.82, state, box, False)
        if arm:
            _post(canvas, frame, 5.4, 0.14, post_rgb)
            bar = [(0.0, 5.2), (arm, 5.3), (arm, 5.38), (0.0, 5.36)]
            canvas.poly(frame.sheet(bar), POLE, post_rgb, snow=0.3)
            _head(canvas, frame, arm, 4.3, 0.9, state, box, False)
        return
    reach = arm or 0.0
    _post(canvas, frame, 6.2, 0.2, post_rgb)
    if reach:
        bar = [(0.0, 5.8), (reach * 1.1, 5.95), (reach * 1.1, 6.05), (0.0, 6.0)]
        canvas.poly(frame.sheet(bar), POLE, post_rgb, snow=0.3)
    for x in (0.55 * reach, reach) if reach else (0.0,):
        level = kind == "level"
        _head(canvas, frame, x, 5.35 if level else 5.0 if reach else 2.6, 1.0, state, box, level)


def _head(
    canvas: Canvas, frame: Frame, x: float, y: float, size: float, state: int, box: RGB, level: bool
) -> None:  # fmt: skip
    long, half = 1.0 * size, 0.17 * size
    body = rect(x - long / 2, x + long / 2, y, y + 2 * half) if level else rect(x - half, x + half, y, y + long)
    canvas.poly(frame.sheet(body, -0.04), TRAFFIC_LIGHT, box, snow=0.1)
    for k, colour in enumerate((GREEN, AMBER, RED)):
        share = (0.18 + 0.32 * k) * long
        at = (x - long / 2 + share, y + half) if level else (x, y + share)
        on = k == 2 - state
        disc = frame.sheet(oval(*at, 0.115 * size, 0.115 * size, 10), -0.06)
        canvas.poly(disc, TRAFFIC_LIGHT, colour if on else shade(colour, 0.18), emit=colour if on else BLACK, snow=0.0)


# -- signs -----------------------------------------------------------------------------------------------------------


def _ring(r: float, rim: RGB, face: RGB, share: float = 0.76) -> list[Plate]:
    return [(oval(0, 0, r, r, 16), rim), (oval(0, 0, r * share, r * share, 16), face)]


def _bars(r: float, rows: int, rgb: RGB, wide: float = 0.6) -> list[Plate]:
    """Return lines that suggest writing."""
    step = 1.3 * r / rows
    return [(rect(-wide * r, wide * r, -0.6 * r + k * step, -0.6 * r + (k + 0.45) * step), rgb) for k in range(rows)]


def _board(w: float, h: float, ground: RGB, rim: RGB, ink: RGB, rows: int = 2) -> list[Plate]:
    step = 1.5 * h / rows
    lines = [(rect(-w * 0.75, w * (0.3 + 0.35 * (k % 2)), -0.7 * h + k * step, -0.7 * h + (k + 0.5) * step), ink)
             for k in range(rows)]  # fmt: skip
    return [(rect(-w, w, -h, h), rim), (rect(-w + 0.05, w - 0.05, -h + 0.05, h - 0.05), ground), *lines]


def _poly(r: float, n: int, turn: float = 0.0) -> list[Flat]:
    return [(r * sin(turn + 2 * pi * k / n), r * cos(turn + 2 * pi * k / n)) for k in range(n)]


_BLUE: RGB = (28, 72, 160)
_NAVY: RGB = (24, 40, 92)
_SUN: RGB = (246, 204, 40)
_ORANGE: RGB = (240, 120, 30)
_FOREST: RGB = (16, 92, 62)
_MAROON: RGB = (126, 62, 34)

# Plates from back to front around the centre of the sign, for a radius in metres.
SIGNS: dict[str, Callable[[float], list[Plate]]] = {
    "limit": lambda r: [*_ring(r, RED, WHITE), (rect(-r * 0.45, -0.06, -r * 0.35, r * 0.35), _INK),
                        (rect(0.06, r * 0.45, -r * 0.35, r * 0.35), _INK)],
    "no_parking": lambda r: [*_ring(r, RED, _BLUE, 0.8), ([(-r * 0.5, r * 0.62), (-r * 0.62, r * 0.5),
                             (r * 0.5, -r * 0.62), (r * 0.62, -r * 0.5)], RED)],
    "priority": lambda r: [(_poly(r * 1.1, 4), WHITE), (_poly(r * 0.78, 4), _SUN)],
    "yield": lambda r: [(_poly(r * 1.2, 3, pi), RED), (_poly(r * 0.72, 3, pi), WHITE)],
    "mandatory": lambda r: [*_ring(r, WHITE, _BLUE, 0.93), (rect(-r * 0.1, r * 0.1, -r * 0.5, r * 0.5), WHITE)],
    "town": lambda r: _board(r * 2.4, r * 0.9, _SUN, _INK, _INK, 2),
    "detour": lambda r: _board(r * 2.2, r * 0.55, WHITE, _INK, _INK, 1),
    "warning": lambda r: [(_poly(r * 1.2, 4), _INK), (_poly(r * 1.12, 4), (250, 190, 20)), *_bars(r * 0.6, 2, _INK)],
    "speed": lambda r: [(rect(-r * 0.8, r * 0.8, -r, r), _INK), (rect(-r * 0.75, r * 0.75, -r * 0.95, r * 0.95), WHITE),
                        *_bars(r, 3, _INK, 0.5)],
    "stop": lambda r: [(_poly(r * 1.1, 8, pi / 8), WHITE), (_poly(r, 8, pi / 8), RED), *_bars(r * 0.8, 1, WHITE)],
    "street": lambda r: _board(r * 2.0, r * 0.4, _FOREST, WHITE, WHITE, 1),
    "highway": lambda r: _board(r * 3.4, r * 1.7, _FOREST, WHITE, WHITE, 3),
    "no_turn": lambda r: [(rect(-r, r, -r, r), WHITE), *_ring(r * 0.85, RED, WHITE, 0.7),
                          (rect(-r * 0.12, r * 0.12, -r * 0.5, r * 0.4), _INK)],
    "works": lambda r: [(_poly(r * 1.3, 4), _ORANGE), *_bars(r * 0.6, 2, _INK)],
    "blue_guide": lambda r: _board(r * 2.8, r * 1.3, _NAVY, WHITE, WHITE, 2),
    "brown": lambda r: _board(r * 2.0, r * 0.7, _MAROON, WHITE, WHITE, 1),
    "arrows": lambda r: _board(r * 1.8, r * 0.7, _INK, _SUN, _SUN, 1),
    "diamond": lambda r: [(_poly(r * 1.15, 4), _SUN), (rect(-r * 0.12, r * 0.12, -r * 0.5, r * 0.55), _INK)],
    "hatch": lambda r: [(rect(-r * 0.5, r * 0.5, -r * 1.6, r * 1.2), WHITE),
                        *[(rect(-r * 0.5, r * 0.5, -r * 1.6 + r * 0.7 * k, -r * 1.25 + r * 0.7 * k), RED)
                          for k in range(4)]],
}  # fmt: skip


def traffic_sign(canvas: Canvas, frame: Frame, kinds: tuple[str, ...], radius: float, top: float, rgb: RGB) -> None:
    """Draw one sign, or two above each other, on a thin post; ``kinds`` are keys of :data:`SIGNS`."""
    _post(canvas, frame, top + 0.2, 0.07, rgb)
    for place, kind in enumerate(kinds):
        centre = top - 2.1 * radius * place
        for layer, (points, colour) in enumerate(SIGNS[kind](radius * (1 - 0.15 * place)), 1):
            canvas.poly(
                frame.sheet([(x, y + centre) for x, y in points], -0.02 * layer), TRAFFIC_SIGN, colour, snow=0.0
            )


# -- poles -----------------------------------------------------------------------------------------------------------


def bollard(canvas: Canvas, frame: Frame, rgb: RGB, band: RGB) -> None:
    """Draw a knee-high post with a bright band."""
    canvas.contacts.append(frame.floor(-0.1, 0.1, -0.1, 0.1))
    _post(canvas, frame, 0.95, 0.13, rgb)
    canvas.poly(frame.sheet(rect(-0.06, 0.06, 0.72, 0.86), -0.02), POLE, band, snow=0.0)


def utility_pole(canvas: Canvas, frame: Frame, height: float, rgb: RGB) -> None:
    """Draw a wooden pole with cross arms for overhead lines."""
    _post(canvas, frame, height, 0.28, rgb)
    for y, half in ((height - 0.5, 1.1), (height - 1.3, 0.8)):
        canvas.poly(frame.sheet(rect(-half, half, y, y + 0.13), -0.02), POLE, shade(rgb, 0.8), snow=0.4)
    can = [(0.12 + 0.2 * (1 + cos(a)), height - 2.3 + 0.4 * sin(a)) for a in np.linspace(0, 2 * pi, 9).tolist()]
    canvas.poly(frame.sheet(can, -0.03), POLE, (142, 146, 148), snow=0.1)
