"""Trucks, buses and trains."""

import numpy as np

from dgkit.world.camera import Point
from dgkit.world.canvas import GLASS, Canvas
from dgkit.world.classes import BUS, TRUCK
from dgkit.world.colour import RGB, shade
from dgkit.world.frame import Frame, box, rect
from dgkit.world.things.cars import PANE, TYRE, inset, lamps, wheel

_TRUCK_HALF, _COACH_HALF, _SKIRT = 1.2, 1.28, 0.35
_INSIDE: RGB = (255, 226, 160)


def truck(canvas: Canvas, frame: Frame, cab: RGB, load: RGB, length: float, stripe: bool) -> None:
    """Draw a lorry with a box body behind its cab."""
    half, n = _TRUCK_HALF, length / 2
    canvas.contacts.append(frame.floor(-half, half, -n, n))
    canvas.casters.append((frame.floor(-half, half, -n, n), 3.3 * frame.scale))
    canvas.poly(frame.floor(-half, half, -n, n, 0.5), TRUCK, (22, 22, 24), snow=0.0)
    for z in (-n + 0.3, n - 0.6):
        for x in (-0.95, 0.95):
            canvas.poly(frame.sheet(rect(x - 0.2, x + 0.2, 0.0, 0.7), z), TRUCK, TYRE)
    ahead = frame.fz * -frame.origin[2] + frame.fx * (canvas.camera.x - frame.origin[0]) > 0
    if ahead:  # the camera is in front, so the body is farther away
        _truck_body(canvas, frame, load, n, cab if stripe else None)
    _truck_cab(canvas, frame, cab, n)
    if not ahead:
        _truck_body(canvas, frame, load, n, cab if stripe else None)
    for s in (-1.0, 1.0):
        if frame.seen_from(canvas.camera.x, 0.0, s * half):
            for z in (-n + 0.9, -n + 1.95, n - 1.1):
                wheel(canvas, frame, s * (half + 0.01), z, 0.48, TRUCK)


def _truck_body(canvas: Canvas, frame: Frame, load: RGB, n: float, stripe: RGB | None) -> None:
    half = _TRUCK_HALF
    box(canvas, frame, (2 * half, 2.7, 2 * n - 2.3), TRUCK, load, base=0.75, forward=-1.15)
    back = frame.end(-n - 0.01, half, 0.8, 3.4)
    if canvas.poly(inset(back, 0.04, 0.96, 0.04, 0.97), TRUCK, shade(load, 0.86), cull=True):
        canvas.poly(inset(back, 0.49, 0.51, 0.04, 0.97), TRUCK, shade(load, 0.5))
        low = frame.end(-n - 0.02, half, 0.45, 0.8)
        canvas.poly(low, TRUCK, (48, 48, 50))
        lamps(canvas, low, TRUCK, ((0.02, 0.16), (0.84, 0.98)), 0.25, 0.85, False)
    for s in (-1.0, 1.0):
        if stripe and frame.seen_from(canvas.camera.x, 0.0, s * half):
            canvas.poly(frame.flank(s * (half + 0.01), rect(-n + 0.2, n - 2.6, 1.7, 2.4)), TRUCK, stripe)


def _truck_cab(canvas: Canvas, frame: Frame, cab: RGB, n: float) -> None:
    box(canvas, frame, (2.2, 2.1, 2.0), TRUCK, cab, base=0.5, forward=n - 1.0, taper=0.94)
    face = frame.end(n + 0.01, -1.1, 0.5, 2.6, 0.05)
    if canvas.poly(inset(face, 0.06, 0.94, 0.52, 0.92), TRUCK, PANE, mat=GLASS, snow=0.0, cull=True):
        canvas.poly(inset(face, 0.2, 0.8, 0.14, 0.42), TRUCK, (40, 40, 44))
        lamps(canvas, face, TRUCK, ((0.03, 0.18), (0.82, 0.97)), 0.12, 0.26, True)
    for s in (-1.0, 1.0):
        if frame.seen_from(canvas.camera.x, 0.0, s * 1.1):
            pane = [(n - 1.5, 1.6), (n - 0.3, 1.6), (n - 0.35, 2.4), (n - 1.45, 2.4)]
            canvas.poly(frame.flank(s * 1.1, pane), TRUCK, PANE, mat=GLASS)


def coach(canvas: Canvas, frame: Frame, label: int, rgb: RGB, band: RGB, length: float, height: float) -> None:
    """Draw a bus or one car of a train, by ``label`` BUS or TRAIN: a long box with a row of windows."""
    half, n = _COACH_HALF, length / 2
    canvas.contacts.append(frame.floor(-half, half, -n, n))
    canvas.casters.append((frame.floor(-half, half, -n, n), height * frame.scale))
    canvas.poly(frame.floor(-half, half, -n, n, _SKIRT), label, (20, 20, 22), snow=0.0)
    box(canvas, frame, (2 * half, height - _SKIRT, length), label, rgb, base=_SKIRT, top=shade(rgb, 0.9))
    for s in (-1.0, 1.0):
        if frame.seen_from(canvas.camera.x, 0.0, s * half):
            _coach_flank(canvas, frame, label, s * (half + 0.01), n, height, band)
    for s in (-1.0, 1.0):
        _coach_end(canvas, frame, label, n, height, s, band)


def _coach_flank(canvas: Canvas, frame: Frame, label: int, x: float, n: float, height: float, band: RGB) -> None:
    canvas.poly(frame.flank(x, rect(-n, n, _SKIRT, height * 0.33)), label, band)
    panes: list[list[Point]] = []
    doors: list[list[Point]] = []
    count = max(2, int(2 * n / (1.6 if label == BUS else 1.9)))
    step = (2 * n - 0.7) / count
    for k in range(count):
        a = -n + 0.35 + k * step
        door = k % 4 == 1
        quad = frame.flank(x * 1.002, rect(a, a + step * 0.86, 0.5 if door else height * 0.42, height * 0.78))
        (doors if door else panes).append(quad)
    canvas.quads(np.array(panes), label, PANE, emit=shade(_INSIDE, 0.8), mat=GLASS, snow=0.0)
    canvas.quads(np.array(doors), label, shade(PANE, 1.35), emit=shade(_INSIDE, 0.6), mat=GLASS, snow=0.0)
    if label == BUS:
        for z in (-n + 2.2, n - 2.4):
            wheel(canvas, frame, x * 1.005, z, 0.5, label)
    else:
        canvas.poly(frame.flank(x * 1.005, rect(-n, n, 0.0, _SKIRT + 0.15)), label, (46, 46, 50), snow=0.0)


def _coach_end(canvas: Canvas, frame: Frame, label: int, n: float, height: float, s: float, band: RGB) -> None:
    face = frame.end(s * (n + 0.01), -s * _COACH_HALF, _SKIRT, height)
    if not canvas.poly(inset(face, 0.0, 1.0, 0.0, 0.3), label, band, cull=True):
        return
    pane = inset(face, 0.06, 0.94, 0.4 if s > 0 else 0.5, 0.83)
    canvas.poly(pane, label, PANE, mat=GLASS, emit=shade(_INSIDE, 0.35), snow=0.0)
    board: RGB = (255, 170, 50) if label == BUS else (240, 240, 200)
    canvas.poly(inset(face, 0.2, 0.8, 0.87, 0.96), label, (34, 34, 36), emit=board, snow=0.0)
    lamps(canvas, face, label, ((0.05, 0.21), (0.79, 0.95)), 0.1, 0.22, s > 0)
