"""Persons, riders, bicycles and motorcycles."""

from math import cos, pi, sin

import numpy as np

from dgkit.world.camera import Point
from dgkit.world.canvas import RGB, Canvas
from dgkit.world.frame import Flat, Frame, limb, mix, oval, shade

PERSON, RIDER, MOTORCYCLE, BICYCLE = 11, 12, 17, 18
SKINS: tuple[RGB, ...] = ((238, 196, 164), (214, 160, 124), (160, 108, 76), (98, 66, 48))
HAIR: tuple[RGB, ...] = ((40, 30, 24), (92, 62, 36), (186, 148, 84), (150, 150, 150), (24, 24, 26))


class _Figure:
    """Draws limbs on one upright sheet, each with a lit and a shaded half for roundness."""

    def __init__(self, canvas: Canvas, frame: Frame, label: int, forward: float = 0.0) -> None:
        self.canvas, self.frame, self.label, self.forward = canvas, frame, label, forward
        self.fine = canvas.pixels_per_metre(frame.origin[2]) * frame.scale > 16

    def part(self, p: Flat, q: Flat, wide: float, wide_end: float, rgb: RGB) -> None:
        self.shape(limb(p, q, wide, wide_end), rgb)
        if self.fine:
            dx = wide * 0.28
            self.shape(limb((p[0] + dx, p[1]), (q[0] + wide_end * 0.28, q[1]), wide * 0.42, wide_end * 0.42), shade(rgb, 0.78))

    def shape(self, points: list[Flat], rgb: RGB, snow: float = 0.0) -> None:
        normal = (-self.frame.fx * 0.6, 0.25, -abs(self.frame.fz) * 0.6)
        self.canvas.poly(self.frame.sheet(points, self.forward), self.label, rgb, snow=snow, normal=normal)

    def head(self, at: Flat, skin: RGB, hair: RGB, helmet: RGB | None = None) -> None:
        x, y = at
        self.shape(oval(x, y, 0.105, 0.13, 12), skin)
        top = helmet or hair
        r = 0.125 if helmet else 0.112
        self.shape([(x + r * cos(a), y + 0.02 + r * 1.12 * sin(a)) for a in np.linspace(-0.15, pi + 0.15, 9)], top, snow=0.3)
        if self.fine and not helmet:
            self.shape(oval(x + 0.06, y - 0.01, 0.045, 0.1, 8), shade(skin, 0.82))


def person(canvas: Canvas, frame: Frame, rng: np.random.Generator, shirt: RGB, trousers: RGB) -> None:
    """A standing or walking person, seen from the front, the back or the side."""
    fig = _Figure(canvas, frame, PERSON)
    skin, hair = SKINS[rng.integers(len(SKINS))], HAIR[rng.integers(len(HAIR))]
    stride = float(rng.uniform(0.0, 0.34)) * (1 if rng.random() < 0.7 else 0)
    facing = rng.choice((-1.0, 1.0))
    build = float(rng.uniform(0.9, 1.15))
    swing = stride * 0.8
    skirt, bag, coat = rng.random() < 0.15, rng.random() < 0.3, rng.random() < 0.3
    canvas.contacts.append(frame.floor(-0.3, 0.3, -0.15, 0.15))
    canvas.casters.append((frame.floor(-0.2, 0.2, -0.15, 0.15), 1.75 * frame.scale))
    hip, neck = 0.92, 1.47
    dark = shade(trousers, 0.8)
    gap = 0.09 if stride < 0.1 else 0.02
    for sign, colour in ((-1, dark), (1, trousers)):
        foot = sign * (stride + gap)
        fig.part((sign * gap, hip), (foot * 0.45 + facing * 0.03 * (stride > 0.1), 0.5), 0.2 * build, 0.15, colour)
        fig.part((foot * 0.45 + facing * 0.03 * (stride > 0.1), 0.52), (foot, 0.08), 0.15, 0.11, colour)
        fig.shape([(foot - 0.07, 0), (foot + 0.07 + 0.08 * facing, 0), (foot + 0.06 + 0.06 * facing, 0.08), (foot - 0.06, 0.1)], (36, 32, 32))
    fig.part((-0.2 * build, neck - 0.07), (-0.26 - swing, 0.86), 0.13, 0.1, shade(shirt, 0.72))
    bottom = 0.55 if skirt or coat else 0.86
    w = 0.21 * build
    colour = mix(shirt, trousers, 0.5) if skirt else shirt
    torso = [(-w * 1.05, bottom), (w * 1.05, bottom), (w, 1.15), (w * 1.08, neck - 0.08), (w * 0.5, neck), (-w * 0.5, neck), (-w * 1.08, neck - 0.08), (-w, 1.15)]
    fig.shape(torso, colour)
    if fig.fine:
        fig.shape([(w * 0.25, bottom), (w * 1.05, bottom), (w, 1.15), (w * 1.08, neck - 0.08), (w * 0.5, neck)], shade(colour, 0.84))
    fig.part((0.2 * build, neck - 0.07), (0.25 + swing, 1.12), 0.13, 0.11, shade(shirt, 0.88))
    fig.part((0.25 + swing, 1.12), (0.24 + swing * 1.4, 0.84), 0.1, 0.08, skin if rng.random() < 0.5 else shirt)
    fig.part((0, neck - 0.03), (0, neck + 0.08), 0.1, 0.1, shade(skin, 0.85))
    fig.head((0.02 * facing, 1.64), skin, hair)
    if bag:
        fig.shape([(-0.34, 0.75), (-0.16, 0.75), (-0.16, 1.0), (-0.34, 1.0)], (64, 40, 30))


def _ring(canvas: Canvas, frame: Frame, x: float, r: float, tyre: float, label: int, rgb: RGB) -> None:
    loops = [frame.sheet(oval(x, r, r, r, 18)), frame.sheet(oval(x, r, r - tyre, r - tyre, 18))]
    canvas.rings(loops, label, rgb)


def _bar(canvas: Canvas, frame: Frame, label: int, rgb: RGB, p: Flat, q: Flat, wide: float) -> None:
    canvas.poly(frame.sheet(limb(p, q, wide, wide)), label, rgb, snow=0.0)


def bicycle(canvas: Canvas, frame: Frame, rgb: RGB) -> None:
    """A bicycle whose wheels lie in the frame's sheet, heading towards +right."""
    canvas.contacts.append(frame.floor(-0.8, 0.8, -0.12, 0.12))
    wide = 0.055
    for x in (-0.52, 0.52):
        _ring(canvas, frame, x, 0.34, 0.065, BICYCLE, (30, 30, 32))
        if canvas.pixels_per_metre(frame.origin[2]) > 40:
            for k in range(3):
                c, s = 0.3 * cos(k * pi / 3 + 0.3), 0.3 * sin(k * pi / 3 + 0.3)
                _bar(canvas, frame, BICYCLE, (150, 150, 152), (x - c, 0.34 - s), (x + c, 0.34 + s), 0.018)
    for p, q in (((-0.52, 0.34), (-0.05, 0.32)), ((-0.05, 0.32), (-0.2, 0.86)), ((-0.52, 0.34), (-0.17, 0.74)),
                 ((-0.17, 0.74), (0.38, 0.8)), ((-0.05, 0.32), (0.38, 0.74)), ((0.52, 0.34), (0.36, 0.98))):  # fmt: skip
        _bar(canvas, frame, BICYCLE, rgb, p, q, wide)
    _bar(canvas, frame, BICYCLE, (24, 24, 24), (-0.34, 0.9), (-0.06, 0.9), 0.08)
    _bar(canvas, frame, BICYCLE, (40, 40, 42), (0.3, 1.02), (0.48, 1.0), 0.05)


def cyclist(canvas: Canvas, frame: Frame, rng: np.random.Generator, shirt: RGB, trousers: RGB) -> None:
    """The rider on a :func:`bicycle` drawn before in the same frame."""
    fig = _Figure(canvas, frame, RIDER, 0.0)
    skin, hair = SKINS[rng.integers(len(SKINS))], HAIR[rng.integers(len(HAIR))]
    helmet = None if rng.random() < 0.5 else (rng.integers(60, 255), rng.integers(40, 220), rng.integers(40, 220))
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


def motorcycle(canvas: Canvas, frame: Frame, rgb: RGB, lit: bool = True) -> None:
    """A motorcycle in the frame's sheet, heading towards +right."""
    canvas.contacts.append(frame.floor(-1.0, 1.0, -0.3, 0.3))
    canvas.casters.append((frame.floor(-0.9, 0.9, -0.2, 0.2), 1.1 * frame.scale))

    def piece(points: list[Flat], colour: RGB, emit: RGB = (0, 0, 0)) -> None:
        canvas.poly(frame.sheet(points), MOTORCYCLE, colour, emit=emit, snow=0.0)

    for x in (-0.68, 0.7):
        piece(oval(x, 0.32, 0.32, 0.32, 14), (24, 24, 26))
        piece(oval(x, 0.32, 0.18, 0.18, 12), (132, 134, 138))
    piece([(-0.35, 0.28), (0.3, 0.28), (0.36, 0.6), (-0.3, 0.64)], (66, 66, 70))
    piece([(-0.2, 0.36), (0.15, 0.34), (0.2, 0.52), (-0.16, 0.52)], (110, 112, 116))
    piece([(-0.95, 0.72), (-0.3, 0.6), (0.35, 0.6), (0.48, 0.84), (0.2, 0.98), (-0.1, 0.84), (-0.6, 0.82), (-0.98, 0.88)], rgb)
    piece([(-0.85, 0.84), (-0.15, 0.82), (-0.18, 0.92), (-0.8, 0.96)], (30, 28, 28))
    _bar(canvas, frame, MOTORCYCLE, (150, 152, 156), (0.7, 0.32), (0.42, 0.98), 0.09)
    piece([(0.36, 0.84), (0.62, 0.8), (0.6, 1.08), (0.42, 1.12)], shade(rgb, 0.85))
    piece([(0.56, 0.84), (0.68, 0.86), (0.66, 1.0), (0.56, 1.02)], (236, 236, 224), (255, 246, 214) if lit else (0, 0, 0))
    _bar(canvas, frame, MOTORCYCLE, (40, 40, 42), (0.3, 1.12), (0.46, 1.08), 0.06)
    _bar(canvas, frame, MOTORCYCLE, (160, 160, 164), (-0.8, 0.3), (-0.1, 0.3), 0.1)
    piece([(-1.02, 0.74), (-0.93, 0.74), (-0.93, 0.86), (-1.02, 0.86)], (180, 20, 20), (255, 40, 28))


def motorcyclist(canvas: Canvas, frame: Frame, rng: np.random.Generator, shirt: RGB, trousers: RGB) -> None:
    """The rider on a :func:`motorcycle` drawn before in the same frame."""
    fig = _Figure(canvas, frame, RIDER, 0.0)
    skin = SKINS[rng.integers(len(SKINS))]
    helmet = (float(rng.integers(30, 250)), float(rng.integers(30, 250)), float(rng.integers(30, 250)))
    fig.part((-0.3, 0.92), (0.0, 1.46), 0.32, 0.38, shirt)
    fig.part((-0.28, 0.94), (0.16, 0.82), 0.22, 0.18, trousers)
    fig.part((0.16, 0.82), (-0.02, 0.36), 0.17, 0.12, trousers)
    fig.shape([(-0.1, 0.28), (0.16, 0.28), (0.12, 0.38), (-0.08, 0.4)], (30, 30, 30))
    fig.part((0.02, 1.38), (0.24, 1.14), 0.15, 0.12, shade(shirt, 0.84))
    fig.part((0.24, 1.14), (0.44, 1.1), 0.11, 0.1, shade(shirt, 0.7))
    fig.head((0.06, 1.63), skin, helmet, helmet)
    fig.shape([(0.08, 1.58), (0.19, 1.58), (0.18, 1.68), (0.08, 1.68)], (30, 34, 40))


def upright_rider(
    canvas: Canvas, frame: Frame, rng: np.random.Generator, shirt: RGB, trousers: RGB, rgb: RGB, motor: bool
) -> None:
    """A two-wheeler with its rider, seen from the front or the back; the frame's sheet faces the camera."""
    label = MOTORCYCLE if motor else BICYCLE
    wide = 0.2 if motor else 0.08
    bar: list[tuple[Flat, Flat, float, RGB]] = [((0, 0.02), (0, 0.66), wide, (26, 26, 28)), ((-0.36, 1.04), (0.36, 1.04), 0.06, (60, 60, 62))]
    canvas.contacts.append(frame.floor(-0.3, 0.3, -0.8, 0.8))
    canvas.casters.append((frame.floor(-0.25, 0.25, -0.6, 0.6), 1.7 * frame.scale))
    for p, q, w, colour in bar:
        _bar(canvas, frame, label, colour, p, q, w)
    fig = _Figure(canvas, frame, RIDER)
    skin, hair = SKINS[rng.integers(len(SKINS))], HAIR[rng.integers(len(HAIR))]
    for s in (-1.0, 1.0):
        fig.part((s * 0.12, 0.98), (s * 0.24, 0.68), 0.2, 0.15, trousers)
        fig.part((s * 0.24, 0.7), (s * 0.16, 0.26), 0.15, 0.1, shade(trousers, 0.85))
    fig.part((0, 0.9), (0, 1.46), 0.36, 0.44, shirt)
    for s in (-1.0, 1.0):
        fig.part((s * 0.2, 1.4), (s * 0.34, 1.06), 0.13, 0.1, shade(shirt, 0.84))
    fig.head((0, 1.64), skin, hair, (40, 44, 52) if motor else None)
    body = [(-0.2, 0.5), (0.2, 0.5), (0.26, 0.95), (-0.26, 0.95)] if motor else [(-0.05, 0.5), (0.05, 0.5), (0.05, 0.98), (-0.05, 0.98)]
    canvas.poly(frame.sheet(body, -0.02), label, rgb, snow=0)
    canvas.poly(frame.sheet(oval(0, 0.84, 0.09, 0.09, 8), -0.03), label, (240, 236, 220), emit=(255, 246, 214), snow=0)


def sheet_point(frame: Frame, p: Flat) -> Point:
    """World point of a sheet coordinate."""
    return frame.at(p[0], p[1], 0.0)
