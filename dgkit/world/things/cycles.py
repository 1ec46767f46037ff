"""Bicycles and motorcycles, parked and ridden."""

from math import cos, pi, sin

import numpy as np

from dgkit.world.canvas import Canvas
from dgkit.world.classes import BICYCLE, MOTORCYCLE, RIDER
from dgkit.world.colour import BLACK, RGB, shade
from dgkit.world.frame import Flat, Frame, limb, oval, rect
from dgkit.world.things.people import HAIR, SKINS, Figure, pick

_REAR, _PEDALS, _SADDLE, _STEM = (-0.52, 0.34), (-0.05, 0.32), (-0.17, 0.74), (0.38, 0.78)
_TUBES: tuple[tuple[Flat, Flat], ...] = (
    (_REAR, _PEDALS), (_PEDALS, (-0.2, 0.86)), (_REAR, _SADDLE), (_SADDLE, _STEM), (_PEDALS, _STEM),
    ((0.52, 0.34), (0.36, 0.98)),
)  # fmt: skip


def _ring(canvas: Canvas, frame: Frame, x: float, r: float, tyre: float, label: int, rgb: RGB) -> None:
    loops = [frame.sheet(oval(x, r, r, r, 18)), frame.sheet(oval(x, r, r - tyre, r - tyre, 18))]
    canvas.rings(loops, label, rgb)


def _bar(canvas: Canvas, frame: Frame, label: int, rgb: RGB, p: Flat, q: Flat, wide: float) -> None:
    canvas.poly(frame.sheet(limb(p, q, wide, wide)), label, rgb, snow=0.0)


def bicycle(canvas: Canvas, frame: Frame, rgb: RGB) -> None:
    """Draw a bicycle whose wheels lie in the frame's sheet, heading towards +right."""
    canvas.contacts.append(frame.floor(-0.8, 0.8, -0.12, 0.12))
    wide = 0.055
    for x in (-0.52, 0.52):
        _ring(canvas, frame, x, 0.34, 0.065, BICYCLE, (30, 30, 32))
        if canvas.pixels_per_metre(frame.origin[2]) > 40:
            for k in range(3):
                c, s = 0.3 * cos(k * pi / 3 + 0.3), 0.3 * sin(k * pi / 3 + 0.3)
                _bar(canvas, frame, BICYCLE, (150, 150, 152), (x - c, 0.34 - s), (x + c, 0.34 + s), 0.018)
    for p, q in _TUBES:
        _bar(canvas, frame, BICYCLE, rgb, p, q, wide)
    _bar(canvas, frame, BICYCLE, (24, 24, 24), (-0.34, 0.9), (-0.06, 0.9), 0.08)
    _bar(canvas, frame, BICYCLE, (40, 40, 42), (0.3, 1.02), (0.48, 1.0), 0.05)


def _cyclist(canvas: Canvas, frame: Frame, rng: np.random.Generator, shirt: RGB, trousers: RGB) -> None:
    fig = Figure(canvas, frame, RIDER)
    skin, hair = pick(SKINS, rng), pick(HAIR, rng)
    helmet = _helmet(rng) if rng.random() < 0.5 else None
    lean = float(rng.uniform(0.0, 0.2))
    canvas.casters.append((frame.floor(-0.5, 0.5, -0.15, 0.15), 1.7 * frame.scale))
    shoulder = (0.1 + lean, 1.46 - lean * 0.3)
    fig.part((-0.18, 0.95), (0.16, 0.68), 0.19, 0.14, shade(trousers, 0.75))
    fig.part((0.16, 0.68), (0.0, 0.2), 0.14, 0.1, shade(trousers, 0.75))
    fig.part((-0.22, 0.92), shoulder, 0.3, 0.36, shirt)
    fig.part((-0.18, 0.95), (0.2, 0.8), 0.2, 0.15, trousers)
    fig.part((0.2, 0.8), (0.08, 0.42), 0.14, 0.1, trousers)
    fig.shape([(0.0, 0.36), (0.22, 0.36), (0.2, 0.44), (0.02, 0.46)], (34, 34, 34))
    fig.part((shoulder[0], shoulder[1] - 0.06), (0.28 + lean * 0.5, 1.18), 0.13, 0.1, shade(shirt, 0.84))
    fig.part((0.28 + lean * 0.5, 1.18), (0.42, 1.03), 0.1, 0.08, skin)
    fig.head((shoulder[0] + 0.08, shoulder[1] + 0.19), skin, hair, helmet)


def motorcycle(canvas: Canvas, frame: Frame, rgb: RGB) -> None:
    """Draw a motorcycle in the frame's sheet, heading towards +right."""
    canvas.contacts.append(frame.floor(-1.0, 1.0, -0.3, 0.3))
    canvas.casters.append((frame.floor(-0.9, 0.9, -0.2, 0.2), 1.1 * frame.scale))

    def piece(points: list[Flat], colour: RGB, emit: RGB = BLACK, convex: bool = True) -> None:
        canvas.poly(frame.sheet(points), MOTORCYCLE, colour, emit=emit, snow=0.0, convex=convex)

    for x in (-0.68, 0.7):
        piece(oval(x, 0.32, 0.32, 0.32, 14), (24, 24, 26))
        piece(oval(x, 0.32, 0.18, 0.18, 12), (132, 134, 138))
    piece([(-0.35, 0.28), (0.3, 0.28), (0.36, 0.6), (-0.3, 0.64)], (66, 66, 70))
    piece([(-0.2, 0.36), (0.15, 0.34), (0.2, 0.52), (-0.16, 0.52)], (110, 112, 116))
    tank = [(0.35, 0.6), (0.48, 0.84), (0.2, 0.98), (-0.1, 0.84)]
    piece([(-0.95, 0.72), (-0.3, 0.6), *tank, (-0.6, 0.82), (-0.98, 0.88)], rgb, convex=False)
    piece([(-0.85, 0.84), (-0.15, 0.82), (-0.18, 0.92), (-0.8, 0.96)], (30, 28, 28))
    _bar(canvas, frame, MOTORCYCLE, (150, 152, 156), (0.7, 0.32), (0.42, 0.98), 0.09)
    piece([(0.36, 0.84), (0.62, 0.8), (0.6, 1.08), (0.42, 1.12)], shade(rgb, 0.85))
    piece([(0.56, 0.84), (0.68, 0.86), (0.66, 1.0), (0.56, 1.02)], (236, 236, 224), (255, 246, 214))
    _bar(canvas, frame, MOTORCYCLE, (40, 40, 42), (0.3, 1.12), (0.46, 1.08), 0.06)
    _bar(canvas, frame, MOTORCYCLE, (160, 160, 164), (-0.8, 0.3), (-0.1, 0.3), 0.1)
    piece([(-1.02, 0.74), (-0.93, 0.74), (-0.93, 0.86), (-1.02, 0.86)], (180, 20, 20), (255, 40, 28))


def _motorcyclist(canvas: Canvas, frame: Frame, rng: np.random.Generator, shirt: RGB, trousers: RGB) -> None:
    fig = Figure(canvas, frame, RIDER)
    skin, helmet = pick(SKINS, rng), _helmet(rng)
    fig.part((-0.3, 0.92), (0.0, 1.46), 0.32, 0.38, shirt)
    fig.part((-0.28, 0.94), (0.16, 0.82), 0.22, 0.18, trousers)
    fig.part((0.16, 0.82), (-0.02, 0.36), 0.17, 0.12, trousers)
    fig.shape([(-0.1, 0.28), (0.16, 0.28), (0.12, 0.38), (-0.08, 0.4)], (30, 30, 30))
    fig.part((0.02, 1.38), (0.24, 1.14), 0.15, 0.12, shade(shirt, 0.84))
    fig.part((0.24, 1.14), (0.44, 1.1), 0.11, 0.1, shade(shirt, 0.7))
    fig.head((0.06, 1.63), skin, helmet, helmet)
    fig.shape([(0.08, 1.58), (0.19, 1.58), (0.18, 1.68), (0.08, 1.68)], (30, 34, 40))


def _helmet(rng: np.random.Generator) -> RGB:
    r, g, b = rng.uniform(30, 250, 3).tolist()
    return (r, g, b)


def rider_from_side(canvas: Canvas, frame: Frame, seed: int, shirt: RGB, trousers: RGB, rgb: RGB, motor: bool) -> None:
    """Draw a two-wheeler and its rider from the side."""
    rng = np.random.default_rng(seed)
    (motorcycle if motor else bicycle)(canvas, frame, rgb)
    (_motorcyclist if motor else _cyclist)(canvas, frame, rng, shirt, trousers)


def rider_from_front(canvas: Canvas, frame: Frame, seed: int, shirt: RGB, trousers: RGB, rgb: RGB, motor: bool) -> None:
    """Draw a two-wheeler and its rider from the front; the frame's sheet faces the camera."""
    rng = np.random.default_rng(seed)
    label, wide = (MOTORCYCLE, 0.2) if motor else (BICYCLE, 0.08)
    canvas.contacts.append(frame.floor(-0.3, 0.3, -0.8, 0.8))
    canvas.casters.append((frame.floor(-0.25, 0.25, -0.6, 0.6), 1.7 * frame.scale))
    _bar(canvas, frame, label, (26, 26, 28), (0.0, 0.02), (0.0, 0.66), wide)
    _bar(canvas, frame, label, (60, 60, 62), (-0.36, 1.04), (0.36, 1.04), 0.06)
    fig = Figure(canvas, frame, RIDER)
    skin, hair = pick(SKINS, rng), pick(HAIR, rng)
    for s in (-1.0, 1.0):
        fig.part((s * 0.12, 0.98), (s * 0.24, 0.68), 0.2, 0.15, trousers)
        fig.part((s * 0.24, 0.7), (s * 0.16, 0.26), 0.15, 0.1, shade(trousers, 0.85))
    fig.part((0.0, 0.9), (0.0, 1.46), 0.36, 0.44, shirt)
    for s in (-1.0, 1.0):
        fig.part((s * 0.2, 1.4), (s * 0.34, 1.06), 0.13, 0.1, shade(shirt, 0.84))
    fig.head((0.0, 1.64), skin, hair, _helmet(rng) if motor else None)
    body = [(-0.2, 0.5), (0.2, 0.5), (0.26, 0.95), (-0.26, 0.95)] if motor else rect(-0.05, 0.05, 0.5, 0.98)
    canvas.poly(frame.sheet(body, -0.02), label, rgb, snow=0.0)
    light = frame.sheet(oval(0.0, 0.84, 0.09, 0.09, 8), -0.03)
    canvas.poly(light, label, (240, 236, 220), emit=(255, 246, 214), snow=0.0)
