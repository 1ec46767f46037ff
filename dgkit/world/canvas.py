"""Rasteriser: a buffer of surface numbers, and a table with the properties of each surface.

Everything is drawn here. Each polygon is rasterised once, by OpenCV's ``fillConvexPoly``/``fillPoly`` with LINE_8, into
an int32 buffer that holds the number of the surface visible at each pixel. Label, colour, light, depth and weather are
looked up from that number afterwards, so label and picture always match. OpenCV's polygon filler takes sub-pixel
vertices, is about ten times faster than Pillow's and uses no threads. The buffer has ``oversample`` times the final
resolution per axis; colours are averaged, labels sampled.
"""

from collections.abc import Sequence
from math import cos, sin, sqrt

import cv2
import numpy as np

from dgkit.world.camera import NEAR, Camera, Point
from dgkit.world.classes import SKY
from dgkit.world.colour import BLACK, RGB

Quads = tuple[np.ndarray, RGB, RGB, int, float]  # corners float [N, 4, 3], colour, emission, material, snow

# Materials: they decide how textures and weather change a surface.
PLAIN, ASPHALT, PAVING, GRASS, BRICK, PLASTER, FOLIAGE, GLASS, MARKING = range(9)

_SHIFT = 4  # fractional bits of polygon vertices
_SCALE = 1 << _SHIFT
_LIMIT = 1 << 22  # pixels; vertices farther out are clamped so that they fit in 32 bits

cv2.setNumThreads(1)  # scenes are drawn by several processes; OpenCV's own threads would slow them down


class Canvas:
    """Buffer and table of the surfaces, which must be drawn far to near; row 0 of the table is the sky."""

    def __init__(self, camera: Camera, height: int, width: int, oversample: int = 2) -> None:
        self.camera = camera
        self.height, self.width, self.oversample = height, width, oversample
        self.ids = np.zeros((height * oversample, width * oversample), np.int32)
        self.labels: list[int] = [SKY]
        self.colours: list[RGB] = [BLACK]
        self.emissions: list[RGB] = [BLACK]
        self.normals: list[Point] = [(0.0, 0.0, -1.0)]
        self.planes: list[Point] = [(0.0, 0.0, 0.0)]  # 1/depth = plane . ray
        self.extras: list[tuple[float, int]] = [(0.0, PLAIN)]  # snow 0..1, material
        self.casters: list[tuple[list[Point], float]] = []  # footprint on the ground, height in metres
        self.contacts: list[list[Point]] = []  # footprints that darken the ground in every light
        self.lamps: list[tuple[Point, RGB, float]] = []  # position, colour, radius in metres
        self._rotation = camera.rotation().T.copy()
        self._position = np.array([camera.x, camera.y, 0.0])
        self._cy, self._sy = cos(camera.yaw), sin(camera.yaw)
        self._cp, self._sp = cos(camera.pitch), sin(camera.pitch)
        self._f = camera.focal * height * oversample
        self._cx = (width * oversample - 1) / 2
        self._cyp = (height * oversample - 1) / 2

    # -- surfaces -------------------------------------------------------------------------------------------------

    def surface(
        self, label: int, rgb: RGB, normal: Point, plane: Point, emit: RGB = BLACK, snow: float = -1.0, mat: int = PLAIN
    ) -> int:
        """Add a row to the table and return its number.

        ``snow`` (0..1) is how much snow stays on the surface; a negative value derives it from how far it faces up.
        """
        if snow < 0.0:
            snow = min(1.0, max(0.0, normal[1] * 1.6 - 0.3))
        self.labels.append(label)
        self.colours.append(rgb)
        self.emissions.append(emit)
        self.normals.append(normal)
        self.planes.append(plane)
        self.extras.append((snow, mat))
        return len(self.labels) - 1

    def plane_of(self, points: Sequence[Point]) -> tuple[Point, Point, bool]:
        """Return the unit normal towards the camera, the plane for the table, and whether the winding faces it."""
        ax, ay, az = points[0]
        bx, by, bz = points[1]
        cx, cy, cz = points[2]
        ux, uy, uz, vx, vy, vz = bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        length = sqrt(nx * nx + ny * ny + nz * nz) or 1.0
        nx, ny, nz = nx / length, ny / length, nz / length
        cam = self.camera
        d = nx * (ax - cam.x) + ny * (ay - cam.y) + nz * az
        front = d < 0.0
        if not front:
            nx, ny, nz, d = -nx, -ny, -nz, -d
        d = min(d, -0.02)
        return (nx, ny, nz), (nx / d, ny / d, nz / d), front

    def poly(
        self,
        points: Sequence[Point],
        label: int,
        rgb: RGB,
        *,
        emit: RGB = BLACK,
        snow: float = -1.0,
        mat: int = PLAIN,
        normal: Point | None = None,
        convex: bool = True,
        cull: bool = False,
    ) -> bool:
        """Draw one flat polygon and return whether it was drawn; ``cull`` skips it when its winding faces away."""
        facing, plane, front = self.plane_of(points)
        if cull and not front:
            return False
        pixels = self._outline(points)
        if pixels is None:
            return False
        number = self.surface(label, rgb, normal or facing, plane, emit, snow, mat)
        if convex:
            cv2.fillConvexPoly(self.ids, pixels, number, cv2.LINE_8, _SHIFT)
        else:
            cv2.fillPoly(self.ids, [pixels], number, cv2.LINE_8, _SHIFT)
        return True

    def rings(self, loops: Sequence[Sequence[Point]], label: int, rgb: RGB) -> None:
        """Draw coplanar loops as one surface with even-odd filling (a ring is an outer and an inner loop)."""
        facing, plane, _ = self.plane_of(loops[0])
        pixels = [p for p in map(self._outline, loops) if p is not None]
        if pixels:
            number = self.surface(label, rgb, facing, plane)
            cv2.fillPoly(self.ids, pixels, number, cv2.LINE_8, _SHIFT)

    def quads(
        self, corners: np.ndarray, label: int, rgb: RGB, *, emit: RGB = BLACK, snow: float = -1.0, mat: int = PLAIN
    ) -> None:
        """Draw coplanar quads float [N, 4, 3] (metres) as one surface; those that cross the near plane are skipped."""
        self.groups(label, [(corners, rgb, emit, mat, snow)])

    def groups(self, label: int, groups: Sequence[Quads]) -> None:
        """Draw several :meth:`quads` of one label in order; projecting them together saves most of the time."""
        groups = [group for group in groups if len(group[0])]
        if not groups:
            return
        pts = (np.concatenate([group[0] for group in groups]) - self._position) @ self._rotation
        z = pts[..., 2]
        front = z.min(1) > NEAR
        scale = self._f / (z if front.all() else np.where(front[:, None], z, 1.0))
        x, y = self._cx + scale * pts[..., 0], self._cyp - scale * pts[..., 1]
        seen = front & (x.max(1) > 0) & (x.min(1) < self.ids.shape[1])
        seen &= (y.max(1) > 0) & (y.min(1) < self.ids.shape[0])
        outlines, first = _fixed_point(x, y), 0
        for corners, rgb, emit, mat, snow in groups:
            span = slice(first, first + len(corners))
            first = span.stop
            mask = seen[span]
            if not mask.any():
                continue
            facing, plane, _ = self.plane_of(corners[0].tolist())
            number = self.surface(label, rgb, facing, plane, emit, snow, mat)
            cv2.fillPoly(self.ids, list(outlines[span][mask]), number, cv2.LINE_8, _SHIFT)

    def leaves(
        self, corners: np.ndarray, label: int, rgb: np.ndarray, normals: np.ndarray, snow: np.ndarray, mat: int
    ) -> None:
        """Draw polygons float [N, M, 3] in order, each its own surface: colours [N, 3], normals [N, 3], snow [N]."""
        pixels = self._project(corners)
        if pixels is None:
            return
        third = corners.shape[1] // 3
        _, plane, _ = self.plane_of([tuple(p) for p in corners[0, [0, third, 2 * third]].tolist()])
        first, count = len(self.labels), len(pixels)
        self.labels += [label] * count
        self.colours += map(tuple, rgb.tolist())
        self.emissions += [BLACK] * count
        self.normals += map(tuple, normals.tolist())
        self.planes += [plane] * count
        self.extras += [(white, mat) for white in snow.tolist()]
        for number, outline in enumerate(pixels, first):
            cv2.fillPoly(self.ids, [outline], number, cv2.LINE_8, _SHIFT)

    def _project(self, corners: np.ndarray) -> np.ndarray | None:
        """Return outlines int32 [N, M, 2] of polygons wholly in front of the camera, else None."""
        pts = (corners - self._position) @ self._rotation
        if pts[..., 2].min() <= NEAR:
            return None
        x = self._cx + self._f * pts[..., 0] / pts[..., 2]
        y = self._cyp - self._f * pts[..., 1] / pts[..., 2]
        return _fixed_point(x, y)

    def fill_mask(self, mask: np.ndarray, points: Sequence[Point], value: int) -> None:
        """Fill a ground polygon into a uint8 mask of the oversampled size (shadows)."""
        pixels = self._outline(points)
        if pixels is not None:
            cv2.fillConvexPoly(mask, cv2.convexHull(pixels), value, cv2.LINE_8, _SHIFT)

    def pixels_per_metre(self, z: float) -> float:
        """Return the final pixels per metre at ``z`` metres ahead."""
        return self.camera.focal * self.height / max(z, 1.0)

    def _outline(self, points: Sequence[Point]) -> np.ndarray | None:
        cam, cy, sy, cp, sp = self.camera, self._cy, self._sy, self._cp, self._sp
        camx, camy, f, mx, my = cam.x, cam.y, self._f, self._cx, self._cyp
        xs: list[float] = []
        ys: list[float] = []
        for px, py, pz in points:
            dx, dy = px - camx, py - camy
            z = dx * sy + pz * cy
            depth = z * cp - dy * sp
            if depth < NEAR:
                break
            xs.append(mx + f * (dx * cy - pz * sy) / depth)
            ys.append(my - f * (dy * cp + z * sp) / depth)
        else:
            return self._fixed(xs, ys)
        seen = _clip_near([cam.to_camera(p) for p in points])
        if not seen:
            return None
        return self._fixed([mx + f * p[0] / p[2] for p in seen], [my - f * p[1] / p[2] for p in seen])

    def _fixed(self, xs: list[float], ys: list[float]) -> np.ndarray | None:
        """Return the fixed-point outline int32 [N, 2] of pixel coordinates, or None if it lies outside the picture."""
        left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
        if right < 0 or left > self.ids.shape[1] or bottom < 0 or top > self.ids.shape[0]:
            return None
        if left < -_LIMIT or right > _LIMIT or top < -_LIMIT or bottom > _LIMIT:
            xs = [min(max(x, -_LIMIT), _LIMIT) for x in xs]
            ys = [min(max(y, -_LIMIT), _LIMIT) for y in ys]
        flat = [round(c * _SCALE) for point in zip(xs, ys, strict=True) for c in point]
        return np.array(flat, np.int32).reshape(-1, 2)


def _fixed_point(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return fixed-point vertices int32 [..., 2] of pixel coordinates."""
    out = np.empty((*x.shape, 2))
    out[..., 0], out[..., 1] = x, y
    out *= _SCALE
    np.minimum(np.maximum(out, -_LIMIT * _SCALE, out=out), _LIMIT * _SCALE, out=out)
    return np.rint(out, out=out).astype(np.int32)


def _clip_near(points: list[Point]) -> list[Point]:
    """Clip a polygon in camera coordinates at the near plane (Sutherland-Hodgman)."""
    out: list[Point] = []
    for a, b in zip(points[-1:] + points[:-1], points, strict=True):
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            t = (NEAR - a[2]) / (b[2] - a[2])
            out.append((a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1]), NEAR))
        if b[2] >= NEAR:
            out.append(b)
    return out
