"""People, drawn as limbs on an upright sheet."""

from math import cos, pi, sin

import numpy as np

from dgkit.world.canvas import Canvas
from dgkit.world.classes import PERSON
from dgkit.world.colour import RGB, mix, shade
from dgkit.world.frame import Flat, Frame, limb, oval, rect

SKINS: tuple[RGB, ...] = ((238, 196, 164), (214, 160, 124), (160, 108, 76), (98, 66, 48))
HAIR: tuple[RGB, ...] = ((40, 30, 24), (92, 62, 36), (186, 148, 84), (150, 150, 150), (24, 24, 26))


def pick(colours: tuple[RGB, ...], rng: np.random.Generator) -> RGB:
    """Draw one of the colours."""
    return colours[int(rng.integers(len(colours)))]


class Figure:
    """Draws limbs on one upright sheet, each with a lit and a shaded half for roundness."""

    def __init__(self, canvas: Canvas, frame: Frame, label: int) -> None:
        self.canvas, self.frame, self.label = canvas, frame, label
        self.fine = canvas.pixels_per_metre(frame.origin[2]) * frame.scale > 16

    def part(self, p: Flat, q: Flat, wide: float, wide_end: float, rgb: RGB) -> None:
        """Draw a limb from p to q."""
        self.shape(limb(p, q, wide, wide_end), rgb)
        if self.fine:
            dx = wide * 0.28
            dark = limb((p[0] + dx, p[1]), (q[0] + wide_end * 0.28, q[1]), wide * 0.42, wide_end * 0.42)
            self.shape(dark, shade(rgb, 0.78))

    def shape(self, points: list[Flat], rgb: RGB, snow: float = 0.0) -> None:
        """Draw a polygon of the sheet."""
        normal = (-self.frame.fx * 0.6, 0.25, -abs(self.frame.fz) * 0.6)
        self.canvas.poly(self.frame.sheet(points), self.label, rgb, snow=snow, normal=normal)

    def head(self, at: Flat, skin: RGB, hair: RGB, helmet: RGB | None = None) -> None:
        """Draw a head with hair or a helmet."""
        x, y = at
        self.shape(oval(x, y, 0.105, 0.13, 12), skin)
        top = helmet or hair
        r = 0.125 if helmet else 0.112
        arc = np.linspace(-0.15, pi + 0.15, 9).tolist()
        self.shape([(x + r * cos(a), y + 0.02 + r * 1.12 * sin(a)) for a in arc], top, snow=0.3)
        if self.fine and not helmet:
            self.shape(oval(x + 0.06, y - 0.01, 0.045, 0.1, 8), shade(skin, 0.82))


def person(canvas: Canvas, frame: Frame, seed: int, shirt: RGB, trousers: RGB) -> None:
    """Draw a standing or walking person."""
    rng = np.random.default_rng(seed)
    fig = Figure(canvas, frame, PERSON)
    skin, hair = pick(SKINS, rng), pick(HAIR, rng)
    stride = float(rng.uniform(0.0, 0.34)) if rng.random() < 0.7 else 0.0
    facing, build = (-1.0 if rng.random() < 0.5 else 1.0), float(rng.uniform(0.9, 1.15))
    skirt, coat, bare, bag = (bool(flag) for flag in rng.random(4) < (0.15, 0.3, 0.5, 0.3))
    canvas.contacts.append(frame.floor(-0.3, 0.3, -0.15, 0.15))
    canvas.casters.append((frame.floor(-0.2, 0.2, -0.15, 0.15), 1.75 * frame.scale))
    _legs(fig, stride, facing, build, trousers)
    swing = stride * 0.8
    fig.part((-0.2 * build, 1.4), (-0.26 - swing, 0.86), 0.13, 0.1, shade(shirt, 0.72))
    _torso(fig, 0.55 if skirt or coat else 0.86, 0.21 * build, mix(shirt, trousers, 0.5) if skirt else shirt)
    fig.part((0.2 * build, 1.4), (0.25 + swing, 1.12), 0.13, 0.11, shade(shirt, 0.88))
    fig.part((0.25 + swing, 1.12), (0.24 + swing * 1.4, 0.84), 0.1, 0.08, skin if bare else shirt)
    fig.part((0.0, 1.44), (0.0, 1.55), 0.1, 0.1, shade(skin, 0.85))
    fig.head((0.02 * facing, 1.64), skin, hair)
    if bag:
        fig.shape(rect(-0.34, -0.16, 0.75, 1.0), (64, 40, 30))


def _legs(fig: Figure, stride: float, facing: float, build: float, trousers: RGB) -> None:
    gap = 0.09 if stride < 0.1 else 0.02
    for sign, colour in ((-1.0, shade(trousers, 0.8)), (1.0, trousers)):
        foot = sign * (stride + gap)
        knee = foot * 0.45 + (facing * 0.03 if stride > 0.1 else 0.0)
        fig.part((sign * gap, 0.92), (knee, 0.5), 0.2 * build, 0.15, colour)
        fig.part((knee, 0.52), (foot, 0.08), 0.15, 0.11, colour)
        left, right = foot - 0.07, foot + 0.07
        fig.shape([(left, 0.0), (right + 0.08 * facing, 0.0), (right + 0.05 * facing, 0.08), (left, 0.1)], (36, 32, 32))


def _torso(fig: Figure, bottom: float, w: float, rgb: RGB) -> None:
    right = [(w * 1.05, bottom), (w, 1.15), (w * 1.08, 1.39), (w * 0.5, 1.47)]
    fig.shape([(-x, y) for x, y in right[:1]] + right + [(-x, y) for x, y in right[:0:-1]], rgb)
    if fig.fine:
        fig.shape([(w * 0.25, bottom), *right], shade(rgb, 0.84))
