"""Passenger cars, and the lamps, wheels and panes that all vehicles share."""

from dgkit.world.camera import Point
from dgkit.world.canvas import GLASS, Canvas
from dgkit.world.classes import CAR
from dgkit.world.colour import RGB, mix, shade
from dgkit.world.frame import Flat, Frame, oval, rect

PANE: RGB = (46, 58, 70)
TYRE: RGB = (26, 26, 28)
HUB: RGB = (150, 152, 156)
HEAD: RGB = (235, 235, 225)
TAIL: RGB = (190, 22, 22)
HEAD_LIT: RGB = (255, 246, 214)
TAIL_LIT: RGB = (255, 40, 28)
PLATE: RGB = (228, 226, 214)

# Side profiles: (forward, up) in metres from the rear bumper over the roof to the front bumper. Points 3..6 are rear
# belt, roof rear, roof front and front belt. The second value is half the width.
PROFILES: dict[str, tuple[list[Flat], float]] = {
    "sedan": ([(-2.2, 0.32), (-2.25, 0.62), (-2.1, 0.92), (-1.5, 0.97), (-0.85, 1.42), (0.3, 1.44), (1.05, 0.97),
               (1.95, 0.84), (2.2, 0.62), (2.2, 0.3)], 0.9),
    "hatch": ([(-1.85, 0.32), (-1.92, 0.62), (-1.88, 0.95), (-1.82, 1.0), (-1.35, 1.48), (0.2, 1.5), (0.95, 1.0),
               (1.7, 0.86), (1.9, 0.62), (1.9, 0.3)], 0.87),
    "suv": ([(-2.2, 0.4), (-2.25, 0.75), (-2.2, 1.05), (-2.15, 1.12), (-1.85, 1.72), (0.35, 1.76), (1.0, 1.14),
             (2.0, 1.02), (2.25, 0.75), (2.25, 0.38)], 0.95),
    "van": ([(-2.4, 0.4), (-2.45, 0.7), (-2.45, 1.05), (-2.44, 1.12), (-2.38, 2.0), (1.2, 2.0), (1.85, 1.16),
             (2.2, 1.0), (2.4, 0.72), (2.4, 0.36)], 0.98),
    "wagon": ([(-2.3, 0.3), (-2.36, 0.6), (-2.32, 0.9), (-2.3, 0.96), (-1.95, 1.43), (0.3, 1.47), (1.15, 0.96),
               (2.1, 0.82), (2.36, 0.6), (2.34, 0.28)], 0.92),
    "mini": ([(-1.3, 0.3), (-1.36, 0.6), (-1.34, 0.95), (-1.3, 1.02), (-1.1, 1.52), (0.4, 1.54), (0.98, 1.02),
              (1.25, 0.86), (1.36, 0.6), (1.35, 0.3)], 0.8),
    "coupe": ([(-2.15, 0.28), (-2.2, 0.55), (-2.1, 0.86), (-1.7, 0.9), (-0.75, 1.28), (0.0, 1.3), (0.95, 0.88),
               (2.0, 0.72), (2.2, 0.52), (2.2, 0.24)], 0.93),
    "jeep": ([(-2.45, 0.45), (-2.5, 0.85), (-2.48, 1.15), (-2.46, 1.24), (-2.4, 1.9), (0.5, 1.92), (1.05, 1.26),
              (2.2, 1.14), (2.45, 0.85), (2.45, 0.42)], 1.02),
}  # fmt: skip
_REAR_BELT, _ROOF_REAR, _ROOF_FRONT, _FRONT_BELT = 3, 4, 5, 6


def inset(quad: list[Point], left: float, right: float, low: float, high: float) -> list[Point]:
    """Return a rectangle inside a quad (low right, low left, high left, high right), in fractions of its sides."""
    lr, ll, hl, hr = quad
    a, b = mix(ll, lr, left), mix(ll, lr, right)
    c, d = mix(hl, hr, left), mix(hl, hr, right)
    return [mix(b, d, low), mix(a, c, low), mix(a, c, high), mix(b, d, high)]


def car(canvas: Canvas, frame: Frame, kind: str, rgb: RGB) -> None:
    """Draw a car heading along the frame's forward axis; ``kind`` is a key of :data:`PROFILES`."""
    # Lower body first, then the cabin on top of it.
    profile, half = PROFILES[kind]
    roof = half * 0.76
    rear, front = profile[0][0], profile[-1][0]
    canvas.contacts.append(frame.floor(-half * 1.02, half * 1.02, rear, front))
    canvas.casters.append((frame.floor(-half, half, rear, front), profile[_ROOF_REAR][1] * frame.scale))
    _underside(canvas, frame, half, rear, front)
    widths = [roof if i in (_ROOF_REAR, _ROOF_FRONT) else half for i in range(len(profile))]
    strips = [_strip(frame, profile, widths, i) for i in range(len(profile) - 1)]
    for i in (*range(_REAR_BELT), *range(_FRONT_BELT, len(strips))):
        canvas.poly(strips[i], CAR, rgb, cull=True)
    _rear(canvas, strips[0], strips[1])
    _front(canvas, strips[-2], strips[-1])
    for side in (-1.0, 1.0):
        _flank(canvas, frame, profile, half, roof, side, rgb)
    pane = mix(PANE, (120, 140, 160), 0.25)
    for i in (_REAR_BELT, _ROOF_FRONT):
        if canvas.poly(strips[i], CAR, shade(rgb, 0.9), cull=True):
            canvas.poly(inset(strips[i], 0.08, 0.92, 0.06, 0.9), CAR, pane, mat=GLASS, snow=0.0)
    canvas.poly(strips[_ROOF_REAR], CAR, rgb, cull=True)


def _strip(frame: Frame, profile: list[Flat], widths: list[float], i: int) -> list[Point]:
    """Return the quad between profile points i and i + 1, wound to face outwards."""
    (z0, y0), (z1, y1), w0, w1 = profile[i], profile[i + 1], widths[i], widths[i + 1]
    a = [frame.at(w0, y0, z0), frame.at(-w0, y0, z0), frame.at(-w1, y1, z1), frame.at(w1, y1, z1)]
    return a if y1 >= y0 and z1 < 1.5 else [a[2], a[3], a[0], a[1]]


def _underside(canvas: Canvas, frame: Frame, half: float, rear: float, front: float) -> None:
    canvas.poly(frame.floor(-half, half, rear + 0.1, front - 0.1, 0.3), CAR, (18, 18, 20), snow=0.0)
    for z in (rear + 0.45, front - 0.45):
        for x in (-half + 0.12, half - 0.12):
            canvas.poly(frame.sheet(rect(x - 0.1, x + 0.1, 0.0, 0.45), z), CAR, TYRE)


def _rear(canvas: Canvas, bumper: list[Point], panel: list[Point]) -> None:
    if canvas.poly(bumper, CAR, (52, 52, 55), cull=True):
        for left in (0.03, 0.76):
            canvas.poly(inset(panel, left, left + 0.21, 0.3, 0.92), CAR, TAIL, emit=TAIL_LIT, snow=0.0)
        canvas.poly(inset(panel, 0.36, 0.64, 0.1, 0.5), CAR, PLATE, snow=0.0)


def _front(canvas: Canvas, panel: list[Point], bumper: list[Point]) -> None:
    if canvas.poly(bumper, CAR, (44, 44, 47), cull=True):
        for left in (0.03, 0.75):
            canvas.poly(inset(panel, left, left + 0.22, 0.2, 0.85), CAR, HEAD, emit=HEAD_LIT, snow=0.0)
        canvas.poly(inset(panel, 0.3, 0.7, 0.15, 0.75), CAR, (38, 38, 42), snow=0.0)
        canvas.poly(inset(bumper, 0.38, 0.62, 0.35, 0.85), CAR, PLATE, snow=0.0)


def _flank(
    canvas: Canvas, frame: Frame, profile: list[Flat], half: float, roof: float, side: float, rgb: RGB
) -> None:  # fmt: skip
    if not frame.seen_from(canvas.camera.x, 0.0, side * half):
        return
    lower = [*profile[: _REAR_BELT + 1], *profile[_FRONT_BELT:]]
    canvas.poly(frame.flank(side * half, lower), CAR, shade(rgb, 0.94), convex=False)
    (zr, yr), (zq, yq), (zp, yp), (zf, yf) = profile[_REAR_BELT : _FRONT_BELT + 1]
    belt = [frame.at(side * half, yf, zf), frame.at(side * half, yr, zr)]
    upper = [*belt, frame.at(side * roof, yq, zq), frame.at(side * roof, yp, zp)]
    canvas.poly(upper, CAR, shade(rgb, 0.9), snow=0.15)
    for a, b in ((0.1, 0.5), (0.54, 0.92)):
        canvas.poly(inset(upper, a, b, 0.08, 0.88), CAR, PANE, mat=GLASS, snow=0.0)
    out = side * (half + 0.01)
    rear, front = profile[0][0], profile[-1][0]
    canvas.poly(frame.flank(out, rect(rear + 0.1, front - 0.1, 0.28, 0.4)), CAR, shade(rgb, 0.55))
    for z in (rear + 0.82, front - 0.85):
        wheel(canvas, frame, out, z, 0.34, CAR)
    for z in (zr * 0.2 + zf * 0.1, zf * 0.75):
        canvas.poly(frame.flank(out, rect(z, z + 0.03, 0.42, yf - 0.06)), CAR, shade(rgb, 0.6))


def wheel(canvas: Canvas, frame: Frame, right: float, forward: float, radius: float, label: int) -> None:
    """Draw tyre and hub on a flank."""
    n = 14 if canvas.pixels_per_metre(frame.origin[2]) * radius > 3 else 8
    canvas.poly(frame.flank(right, oval(forward, radius, radius, radius, n)), label, TYRE, snow=0.0)
    hub = frame.flank(right * 1.01, oval(forward, radius, radius * 0.6, radius * 0.6, n))
    canvas.poly(hub, label, HUB, snow=0.0)


def lamps(
    canvas: Canvas, face: list[Point], label: int, spans: tuple[Flat, Flat], low: float, high: float, front: bool
) -> None:
    """Draw a pair of head or tail lamps on a face, at fractions of its sides."""
    rgb, emit = (HEAD, HEAD_LIT) if front else (TAIL, TAIL_LIT)
    for left, right in spans:
        canvas.poly(inset(face, left, right, low, high), label, rgb, emit=emit, snow=0.0)
