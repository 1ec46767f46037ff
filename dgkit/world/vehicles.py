"""Cars, trucks, buses and trains as closed solids standing on the ground."""

import numpy as np

from dgkit.world.camera import Point
from dgkit.world.canvas import GLASS, PLAIN, RGB, Canvas
from dgkit.world.frame import Frame, box, mix, oval, shade

CAR, TRUCK, BUS, TRAIN = 13, 14, 15, 16
_GLASS: RGB = (46, 58, 70)
_TYRE: RGB = (26, 26, 28)
_HUB: RGB = (150, 152, 156)
_HEAD: RGB = (235, 235, 225)
_TAIL: RGB = (190, 22, 22)
_HEAD_LIT: RGB = (255, 246, 214)
_TAIL_LIT: RGB = (255, 40, 28)

# Side profiles: (forward, up) from the rear bumper over the roof to the front bumper, metres; `belt` are the indices
# of rear belt, roof rear, roof front and front belt.
_PROFILES: dict[str, tuple[list[tuple[float, float]], tuple[int, int, int, int], float]] = {
    "sedan": ([(-2.2, 0.32), (-2.25, 0.62), (-2.1, 0.92), (-1.5, 0.97), (-0.85, 1.42), (0.3, 1.44), (1.05, 0.97),
               (1.95, 0.84), (2.2, 0.62), (2.2, 0.3)], (3, 4, 5, 6), 0.9),
    "hatch": ([(-1.85, 0.32), (-1.92, 0.62), (-1.88, 0.95), (-1.82, 1.0), (-1.35, 1.48), (0.2, 1.5), (0.95, 1.0),
               (1.7, 0.86), (1.9, 0.62), (1.9, 0.3)], (3, 4, 5, 6), 0.87),
    "suv": ([(-2.2, 0.4), (-2.25, 0.75), (-2.2, 1.05), (-2.15, 1.12), (-1.85, 1.72), (0.35, 1.76), (1.0, 1.14),
             (2.0, 1.02), (2.25, 0.75), (2.25, 0.38)], (3, 4, 5, 6), 0.95),
    "van": ([(-2.4, 0.4), (-2.45, 0.7), (-2.45, 1.05), (-2.44, 1.12), (-2.38, 2.0), (1.2, 2.0), (1.85, 1.16),
             (2.2, 1.0), (2.4, 0.72), (2.4, 0.36)], (3, 4, 5, 6), 0.98),
}  # fmt: skip
CAR_KINDS = tuple(_PROFILES)


def _lerp(a: Point, b: Point, t: float) -> Point:
    return (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t)


def inset(quad: list[Point], left: float, right: float, low: float, high: float) -> list[Point]:
    """A rectangle inside a quad (order: low right, low left, high left, high right), in fractions of its sides."""
    lr, ll, hl, hr = quad
    a, b = _lerp(ll, lr, left), _lerp(ll, lr, right)
    c, d = _lerp(hl, hr, left), _lerp(hl, hr, right)
    return [_lerp(b, d, low), _lerp(a, c, low), _lerp(a, c, high), _lerp(b, d, high)]


def car(canvas: Canvas, frame: Frame, kind: str, rgb: RGB, lit: bool = True) -> None:
    """A car heading along the frame's forward axis."""
    profile, belt, half = _PROFILES[kind]
    roof = half * 0.76
    rear, front = profile[0][0], profile[-1][0]
    canvas.contacts.append(frame.floor(-half * 1.02, half * 1.02, rear, front))
    canvas.casters.append((frame.floor(-half, half, rear, front), profile[belt[1]][1] * frame.scale))
    _far_tyres(canvas, frame, half, rear, front)
    widths = [roof if i in belt[1:3] else half for i in range(len(profile))]
    strips = [_strip(frame, profile, widths, i) for i in range(len(profile) - 1)]
    for i in (*range(belt[0]), *range(belt[3], len(strips))):
        canvas.poly(strips[i], CAR, rgb, cull=True)
    _ends(canvas, strips[0], strips[1], strips[-2], strips[-1], lit)
    for side in (-1.0, 1.0):
        _car_side(canvas, frame, profile, belt, half, roof, side, rgb)
    glass_front = mix(_GLASS, (120, 140, 160), 0.25)
    for i, t in ((belt[0], 0.0), (belt[2], 0.0), (belt[1], 1.0)):
        if canvas.poly(strips[i], CAR, shade(rgb, 0.9 if t == 0.0 else 1.0), cull=True) and t == 0.0:
            canvas.poly(inset(strips[i], 0.08, 0.92, 0.06, 0.9), CAR, glass_front, mat=GLASS, snow=0.0)


def _strip(frame: Frame, profile: list[tuple[float, float]], widths: list[float], i: int) -> list[Point]:
    """Quad between profile points i and i+1, wound outwards: (low right, low left, high left, high right) seen from outside."""
    (z0, y0), (z1, y1), w0, w1 = profile[i], profile[i + 1], widths[i], widths[i + 1]
    a = [frame.at(w0, y0, z0), frame.at(-w0, y0, z0), frame.at(-w1, y1, z1), frame.at(w1, y1, z1)]
    if y1 >= y0 and z1 < 1.5:
        return a
    return [a[2], a[3], a[0], a[1]]


def _far_tyres(canvas: Canvas, frame: Frame, half: float, rear: float, front: float) -> None:
    canvas.poly(frame.floor(-half, half, rear + 0.1, front - 0.1, 0.3), CAR, (18, 18, 20), snow=0.0)
    for z in (rear + 0.45, front - 0.45):
        for x in (-half + 0.12, half - 0.12):
            canvas.poly(frame.sheet([(x - 0.1, 0.0), (x + 0.1, 0.0), (x + 0.1, 0.45), (x - 0.1, 0.45)], z), CAR, _TYRE)


def _ends(
    canvas: Canvas, low_rear: list[Point], rear: list[Point], front: list[Point], low_front: list[Point], lit: bool
) -> None:
    """Lamps, plate and bumper at whichever end faces the camera."""
    if canvas.poly(low_rear, CAR, (52, 52, 55), cull=True):
        for left in (0.03, 0.76):
            canvas.poly(inset(rear, left, left + 0.21, 0.3, 0.92), CAR, _TAIL, emit=_TAIL_LIT if lit else (0, 0, 0), snow=0)
        canvas.poly(inset(rear, 0.36, 0.64, 0.1, 0.5), CAR, (228, 226, 214), snow=0)
    if canvas.poly(low_front, CAR, (44, 44, 47), cull=True):
        for left in (0.03, 0.75):
            canvas.poly(inset(front, left, left + 0.22, 0.2, 0.85), CAR, _HEAD, emit=_HEAD_LIT if lit else (0, 0, 0), snow=0)
        canvas.poly(inset(front, 0.3, 0.7, 0.15, 0.75), CAR, (38, 38, 42), snow=0)
        canvas.poly(inset(low_front, 0.38, 0.62, 0.35, 0.85), CAR, (228, 226, 214), snow=0)


def _car_side(
    canvas: Canvas, frame: Frame, profile: list[tuple[float, float]], belt: tuple[int, int, int, int], half: float,
    roof: float, side: float, rgb: RGB,
) -> None:  # fmt: skip
    lower = [*profile[: belt[0] + 1], *profile[belt[3] :]]
    points = [frame.at(side * half, y, z) for z, y in lower]
    if not _faces(canvas, points[0], frame, side):
        return
    canvas.poly(points, CAR, shade(rgb, 0.94), convex=False)
    (zr, yr), (zq, yq), (zp, yp), (zf, yf) = (profile[i] for i in belt)
    upper = [frame.at(side * half, yf, zf), frame.at(side * half, yr, zr), frame.at(side * roof, yq, zq), frame.at(side * roof, yp, zp)]
    canvas.poly(upper, CAR, shade(rgb, 0.9), snow=0.15)
    for a, b in ((0.1, 0.5), (0.54, 0.92)):
        canvas.poly(inset(upper, a, b, 0.08, 0.88), CAR, _GLASS, mat=GLASS, snow=0.0)
    out = side * (half + 0.01)
    rear, front = profile[0][0], profile[-1][0]
    sill = [frame.at(out, y, z) for z, y in ((rear + 0.1, 0.28), (front - 0.1, 0.28), (front - 0.1, 0.4), (rear + 0.1, 0.4))]
    canvas.poly(sill, CAR, shade(rgb, 0.55))
    for z in (rear + 0.82, front - 0.85):
        wheel(canvas, frame, out, z, 0.34, CAR)
    for z in (zr * 0.2 + zf * 0.1, zf * 0.75):
        canvas.poly([frame.at(out, y, z + d) for y, d in ((0.42, 0), (0.42, 0.03), (yf - 0.06, 0.03), (yf - 0.06, 0))], CAR, shade(rgb, 0.6))


def _faces(canvas: Canvas, p: Point, frame: Frame, side: float) -> bool:
    """Whether the camera is on the outer side of a vehicle's flank."""
    dx, dz = canvas.camera.x - p[0], -p[2]
    return (dx * frame.fz - dz * frame.fx) * side > 0.0


def wheel(canvas: Canvas, frame: Frame, right: float, forward: float, radius: float, label: int) -> None:
    """Tyre and hub on a flank."""
    near = canvas.pixels_per_metre(frame.origin[2]) * radius > 3
    n = 14 if near else 8
    canvas.poly([frame.at(right, u, f) for f, u in oval(forward, radius, radius, radius, n)], label, _TYRE, snow=0.0)
    canvas.poly([frame.at(right * 1.01, u, f) for f, u in oval(forward, radius, radius * 0.6, radius * 0.6, n)], label, _HUB, snow=0.0)


def truck(canvas: Canvas, frame: Frame, cab: RGB, load: RGB, length: float, rng: np.random.Generator) -> None:
    """A lorry with a box body behind its cab."""
    half, n = 1.2, length / 2
    stripe = rng.random() < 0.6
    canvas.contacts.append(frame.floor(-half, half, -n, n))
    canvas.casters.append((frame.floor(-half, half, -n, n), 3.3 * frame.scale))
    canvas.poly(frame.floor(-half, half, -n, n, 0.5), TRUCK, (22, 22, 24), snow=0.0)
    for z in (-n + 0.3, n - 0.6):
        for x in (-0.95, 0.95):
            canvas.poly(frame.sheet([(x - 0.2, 0), (x + 0.2, 0), (x + 0.2, 0.7), (x - 0.2, 0.7)], z), TRUCK, _TYRE)

    def body() -> None:
        box(canvas, frame, (2 * half, 2.7, length - 2.3), TRUCK, load, base=0.75, forward=-1.15)
        back = [frame.at(half, 0.8, -n - 0.01), frame.at(-half, 0.8, -n - 0.01), frame.at(-half, 3.4, -n - 0.01), frame.at(half, 3.4, -n - 0.01)]
        if canvas.poly(inset(back, 0.04, 0.96, 0.04, 0.97), TRUCK, shade(load, 0.86), cull=True):
            canvas.poly(inset(back, 0.49, 0.51, 0.04, 0.97), TRUCK, shade(load, 0.5))
            low = [frame.at(half, 0.45, -n - 0.02), frame.at(-half, 0.45, -n - 0.02), frame.at(-half, 0.8, -n - 0.02), frame.at(half, 0.8, -n - 0.02)]
            canvas.poly(low, TRUCK, (48, 48, 50))
            for a in (0.02, 0.84):
                canvas.poly(inset(low, a, a + 0.14, 0.25, 0.85), TRUCK, _TAIL, emit=_TAIL_LIT, snow=0)
        if stripe:
            for s in (-1.0, 1.0):
                if _faces(canvas, frame.at(s * half, 1, 0), frame, s):
                    x = s * (half + 0.01)
                    canvas.poly([frame.at(x, u, f) for f, u in ((-n + 0.2, 1.7), (n - 2.6, 1.7), (n - 2.6, 2.4), (-n + 0.2, 2.4))], TRUCK, cab)

    def head() -> None:
        box(canvas, frame, (2.2, 2.1, 2.0), TRUCK, cab, base=0.5, forward=n - 1.0, taper=0.94)
        face = [frame.at(-1.1, 0.5, n + 0.01), frame.at(1.1, 0.5, n + 0.01), frame.at(1.05, 2.6, n - 0.04), frame.at(-1.05, 2.6, n - 0.04)]
        if canvas.poly(inset(face, 0.06, 0.94, 0.52, 0.92), TRUCK, _GLASS, mat=GLASS, snow=0, cull=True):
            canvas.poly(inset(face, 0.2, 0.8, 0.14, 0.42), TRUCK, (40, 40, 44))
            for a in (0.03, 0.82):
                canvas.poly(inset(face, a, a + 0.15, 0.12, 0.26), TRUCK, _HEAD, emit=_HEAD_LIT)
        for s in (-1.0, 1.0):
            if _faces(canvas, frame.at(s * 1.1, 1, n), frame, s):
                x = s * 1.1
                canvas.poly([frame.at(x, u, f) for f, u in ((n - 1.5, 1.6), (n - 0.3, 1.6), (n - 0.35, 2.4), (n - 1.45, 2.4))], TRUCK, _GLASS, mat=GLASS)

    towards = frame.fz * (0.0 - frame.origin[2]) + frame.fx * (canvas.camera.x - frame.origin[0]) > 0
    for part in (body, head) if towards else (head, body):
        part()
    for s in (-1.0, 1.0):
        if _faces(canvas, frame.at(s * half, 1, 0), frame, s):
            for z in (-n + 0.9, -n + 1.95, n - 1.1):
                wheel(canvas, frame, s * (half + 0.01), z, 0.48, TRUCK)


def coach(
    canvas: Canvas, frame: Frame, label: int, rgb: RGB, band: RGB, length: float, height: float, step: float, lit: bool = True
) -> None:
    """A bus (label 15) or one car of a train (label 16): a long box with a row of windows."""
    half, n, base = 1.28, length / 2, 0.35
    canvas.contacts.append(frame.floor(-half, half, -n, n))
    canvas.casters.append((frame.floor(-half, half, -n, n), height * frame.scale))
    canvas.poly(frame.floor(-half, half, -n, n, base), label, (20, 20, 22), snow=0.0)
    inside: RGB = (255, 226, 160) if lit else (0, 0, 0)
    box(canvas, frame, (2 * half, height - base, length), label, rgb, base=base, top=shade(rgb, 0.9))
    for s in (-1.0, 1.0):
        if not _faces(canvas, frame.at(s * half, 1, 0), frame, s):
            continue
        x = s * (half + 0.01)
        canvas.poly([frame.at(x, u, f) for f, u in ((-n, base), (n, base), (n, height * 0.33), (-n, height * 0.33))], label, band)
        _side_windows(canvas, frame, label, x, n, height, step, inside)
        if label == BUS:
            for z in (-n + 2.2, n - 2.4):
                wheel(canvas, frame, x * 1.005, z, 0.5, label)
        else:
            canvas.poly([frame.at(x * 1.005, u, f) for f, u in ((-n, 0), (n, 0), (n, base + 0.15), (-n, base + 0.15))], label, (46, 46, 50), snow=0)
    for s in (-1.0, 1.0):
        _coach_end(canvas, frame, label, half, n, height, base, s, band, inside)


def _side_windows(
    canvas: Canvas, frame: Frame, label: int, x: float, n: float, height: float, step: float, inside: RGB
) -> None:
    low, high = height * 0.42, height * 0.78
    panes, doors = [], []
    count = max(2, int(2 * n / step))
    for k in range(count):
        a = -n + 0.35 + k * (2 * n - 0.7) / count
        b = a + (2 * n - 0.7) / count * 0.86
        door = k % 4 == 1
        lo = 0.5 if door else low
        quad = [frame.at(x * 1.002, u, f) for f, u in ((a, lo), (b, lo), (b, high), (a, high))]
        (doors if door else panes).append(quad)
    glow = shade(inside, 0.8)
    canvas.quads(np.array(panes), label, _GLASS, emit=glow, mat=GLASS, snow=0)
    canvas.quads(np.array(doors), label, shade(_GLASS, 1.35), emit=shade(inside, 0.6), mat=GLASS, snow=0)


def _coach_end(
    canvas: Canvas, frame: Frame, label: int, half: float, n: float, height: float, base: float, s: float, band: RGB, inside: RGB
) -> None:
    z = s * (n + 0.01)
    a, b = -s * half, s * half
    face = [frame.at(b, base, z), frame.at(a, base, z), frame.at(a, height, z), frame.at(b, height, z)]
    if s > 0:
        face = [face[1], face[0], face[3], face[2]]
        face = [face[1], face[0], face[3], face[2]]
    if not canvas.poly(inset(face, 0, 1, 0, 0.3), label, band, cull=False) or not _end_faces(canvas, frame, z, s):
        return
    canvas.poly(inset(face, 0.06, 0.94, 0.4 if s > 0 else 0.5, 0.83), label, _GLASS, mat=GLASS, emit=shade(inside, 0.35), snow=0)
    canvas.poly(inset(face, 0.2, 0.8, 0.87, 0.96), label, (34, 34, 36), emit=(255, 170, 50) if label == BUS else (240, 240, 200), snow=0)
    for c in (0.05, 0.79):
        lamp, lit = (_HEAD, _HEAD_LIT) if s > 0 else (_TAIL, _TAIL_LIT)
        canvas.poly(inset(face, c, c + 0.16, 0.1, 0.22), label, lamp, emit=lit, snow=0)


def _end_faces(canvas: Canvas, frame: Frame, z: float, s: float) -> bool:
    p = frame.at(0, 1, z)
    return ((canvas.camera.x - p[0]) * frame.fx - p[2] * frame.fz) * s > 0.0


__all__ = ["BUS", "CAR_KINDS", "PLAIN", "TRAIN", "car", "coach", "truck"]
