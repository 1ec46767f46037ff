"""Trees and bushes. Trunk and crown share the class vegetation."""

from functools import cache
from math import pi

import numpy as np

from dgkit.world.canvas import FOLIAGE, Canvas
from dgkit.world.classes import VEGETATION
from dgkit.world.colour import RGB, shade, vary
from dgkit.world.frame import Flat, Frame, oval

_MASSES = 30  # greatest number of leaf masses in a crown
BROAD, CONIFER, SLIM = range(3)


def tree(canvas: Canvas, frame: Frame, seed: int, leaf: RGB, height: float, kind: int) -> None:
    """Draw a tree; ``kind`` is BROAD, CONIFER or SLIM."""
    rng = np.random.default_rng(seed)
    trunk: RGB = vary((92, 72, 54), rng, 0.15)
    w = 0.04 * height + 0.08
    canvas.contacts.append(frame.floor(-w, w, -w, w))
    top = height * (0.3 if kind == CONIFER else 0.62)
    canvas.poly(frame.sheet([(-w, 0), (w, 0), (w * 0.6, top), (-w * 0.6, top)]), VEGETATION, trunk, snow=0.0)
    dark = [(w * 0.1, 0.0), (w, 0.0), (w * 0.6, top), (w * 0.1, top)]
    canvas.poly(frame.sheet(dark, -0.01), VEGETATION, shade(trunk, 0.7), snow=0.0)
    r = height * (0.3 if kind == BROAD else 0.19)
    canvas.casters.append((frame.floor(-r, r, -r, r), height * frame.scale))
    if kind == CONIFER:
        _cones(canvas, frame, leaf, height)
    elif kind == BROAD:
        crown(canvas, frame, rng, leaf, (0.0, height - r), r, r * 0.85)
    else:
        crown(canvas, frame, rng, leaf, (0.0, height - r * 1.7), r, r * 1.7)


def _cones(canvas: Canvas, frame: Frame, leaf: RGB, height: float) -> None:
    for k in range(5):
        y, w, dip = height * (0.16 + 0.16 * k), height * 0.24 * (1 - 0.17 * k), height * 0.03
        cone = [(-w, y), (-w * 0.5, y - dip), (0.0, y), (w * 0.5, y - dip), (w, y), (0.0, y + height * 0.26)]
        points, rgb = frame.sheet(cone, -0.02 * k), shade(leaf, 0.72 + 0.06 * k)
        canvas.poly(points, VEGETATION, rgb, snow=0.55, mat=FOLIAGE, convex=False)


def crown(canvas: Canvas, frame: Frame, rng: np.random.Generator, leaf: RGB, at: Flat, a: float, b: float) -> None:
    """Draw overlapping leaf masses in an ellipse of half axes (a, b): dark low and behind, light high and in front."""
    size = canvas.pixels_per_metre(frame.origin[2]) * a * frame.scale
    count, n = max(8, min(_MASSES, int(size * 0.8))), 13 if size > 10 else 8
    angle, dist = rng.uniform(0, 2 * pi, _MASSES), np.sqrt(rng.uniform(0, 1, _MASSES))
    radius, jitter = rng.uniform(0.28, 0.46, _MASSES), rng.uniform(0.9, 1.08, (_MASSES, 13))[:, :n]
    tint = rng.uniform(-0.06, 0.06, _MASSES)
    hull = [(at[0] + x * 0.86, at[1] + y * 0.86) for x, y in oval(0, 0, a, b, 12)]
    if not canvas.poly(frame.sheet(hull), VEGETATION, shade(leaf, 0.6), snow=0.1, mat=FOLIAGE):
        return
    x, y = dist * np.cos(angle) * 0.75, dist * np.sin(angle) * 0.75
    order = np.argsort(y[:count], kind="stable")
    x, y, r, jitter, tint = x[order], y[order], radius[order, None], jitter[order], tint[order]
    cosines, sines = _circle(n)
    right = at[0] + (x[:, None] + r * jitter * cosines) * a
    up = at[1] + (y[:, None] + r * jitter * sines) * b
    ox, oy, oz = frame.origin
    corners = np.stack([ox + right * frame.fz, oy + up * frame.scale, oz - right * frame.fx], -1)
    rgb = np.clip(np.array(leaf) * (0.86 + 0.24 * y + tint - 0.06 * x)[:, None], 0, 255)
    normals = np.stack([-0.35 + x * 0.8, 0.45 + 0.5 * y, np.full(len(x), -0.5)], -1)
    snow = np.clip(0.15 + 0.75 * y + 6 * tint, 0, 0.9)
    canvas.leaves(corners, VEGETATION, rgb, normals, snow, FOLIAGE)


@cache
def _circle(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines and sines of n angles around a circle."""
    t = np.linspace(0, 2 * pi, n, endpoint=False)
    return np.cos(t), np.sin(t)


def bush(canvas: Canvas, frame: Frame, seed: int, leaf: RGB, wide: float, height: float) -> None:
    """Draw a low round shrub."""
    canvas.contacts.append(frame.floor(-wide * 0.9, wide * 0.9, -0.4, 0.4))
    crown(canvas, frame, np.random.default_rng(seed), leaf, (0.0, height * 0.45), wide, height * 0.6)
