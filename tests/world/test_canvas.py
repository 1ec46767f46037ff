"""Drawing: the label fits the picture, polygons are clipped, depth comes out right."""

from __future__ import annotations

import numpy as np
import pytest

from dgkit.world.camera import NEAR, Camera, Road
from dgkit.world.canvas import Canvas
from dgkit.world.gbuffer import GBuffer, average

CAMERA = Camera(x=0.3, y=1.6, yaw=0.1, pitch=0.05, focal=1.3)
ROAD = Road(4.0)


def canvas(oversample: int = 1) -> Canvas:
    return Canvas(CAMERA, 128, 256, oversample)


def upright(z: float, half: float = 1.5) -> list[tuple[float, float, float]]:
    return [(-half, 0.2, z), (half, 0.2, z), (half, 3.0, z), (-half, 3.0, z)]


def project(point: tuple[float, float, float]) -> tuple[float, float]:
    """Project with a pinhole camera, independently of the canvas: column and row in a 128x256 picture."""
    x, y, z = CAMERA.rotation() @ (np.array(point) - (CAMERA.x, CAMERA.y, 0.0))
    return 127.5 + 1.3 * 128 * x / z, 63.5 - 1.3 * 128 * y / z


def test_label_and_colour_share_every_pixel() -> None:
    drawn = canvas()
    drawn.poly(upright(8.0), 13, (250.0, 10.0, 200.0))
    drawn.poly(upright(6.0, 0.4), 11, (10.0, 250.0, 20.0))
    colours = np.zeros((len(drawn.labels), 4), np.uint8)
    colours[:, :3] = np.array(drawn.colours)
    picture, label = average(drawn, colours)[..., :3], GBuffer(drawn, ROAD).label
    assert set(np.unique(label)) == {10, 11, 13}
    assert ((picture == (250, 10, 200)).all(-1) == (label == 13)).all()
    assert ((picture == (10, 250, 20)).all(-1) == (label == 11)).all()


def test_oversampled_edges_stay_within_a_pixel_of_the_label() -> None:
    drawn = canvas(2)
    drawn.poly(upright(8.0), 13, (200.0, 0.0, 0.0))
    table = np.array([(0, 0, 0, 255), (200, 0, 0, 0)], np.uint8)
    red, label = average(drawn, table)[..., 0], GBuffer(drawn, ROAD).label
    assert (red[label == 13] > 40).all()
    assert (red[label != 13] < 160).all()
    assert (red == 200).sum() > 1000


def test_polygon_lands_where_the_pinhole_puts_it() -> None:
    drawn = canvas()
    drawn.poly(upright(9.0), 2, (1.0, 1.0, 1.0))
    rows, columns = np.nonzero(drawn.ids)
    corners = np.array([project(p) for p in upright(9.0)])
    assert abs(columns.min() - corners[:, 0].min()) <= 1 and abs(columns.max() - corners[:, 0].max()) <= 1
    assert abs(rows.min() - corners[:, 1].min()) <= 1 and abs(rows.max() - corners[:, 1].max()) <= 1


def test_quads_and_poly_draw_the_same_pixels() -> None:
    one, two = canvas(), canvas()
    one.poly(upright(7.0), 2, (1.0, 1.0, 1.0))
    two.quads(np.array([upright(7.0)]), 2, (1.0, 1.0, 1.0))
    assert (one.ids == two.ids).mean() > 0.999 and two.ids.any()


def test_depth_of_a_slanted_wall() -> None:
    drawn = canvas()
    wall = [(-3.0, 0.0, 5.0), (2.0, 0.0, 12.0), (2.0, 4.0, 12.0), (-3.0, 4.0, 5.0)]
    drawn.poly(wall, 2, (1.0, 1.0, 1.0))
    buffers = GBuffer(drawn, ROAD)
    on_wall = buffers.label == 2
    offset = (buffers.z - 5.0) * 5.0 - (buffers.x + 3.0) * 7.0  # zero on the wall's plane
    assert on_wall.sum() > 500
    assert np.abs(offset[on_wall]).max() < 0.05


def test_ground_through_the_camera_is_clipped() -> None:
    drawn = canvas()
    drawn.poly([(-2.0, 0.0, -5.0), (2.0, 0.0, -5.0), (2.0, 0.0, 30.0), (-2.0, 0.0, 30.0)], 0, (1.0, 1.0, 1.0))
    buffers = GBuffer(drawn, ROAD)
    assert (buffers.label[-1] == 0).sum() > 100
    assert buffers.depth[buffers.label == 0].min() > NEAR
    assert np.abs(buffers.y[buffers.label == 0]).max() < 0.05


@pytest.mark.parametrize("z", [-4.0, 0.1])
def test_nothing_behind_the_lens(z: float) -> None:
    drawn = canvas()
    assert not drawn.poly(upright(z), 13, (1.0, 1.0, 1.0))
    assert not drawn.ids.any() and len(drawn.labels) == 1


def test_culling_keeps_the_face_towards_the_camera() -> None:
    assert canvas().poly(upright(6.0)[::-1], 2, (1.0, 1.0, 1.0), cull=True)
    assert not canvas().poly(upright(6.0), 2, (1.0, 1.0, 1.0), cull=True)


def test_road_is_smooth_where_its_bend_ends() -> None:
    road = Road(4.0, bend=0.0007, slope=0.01, rise=0.00005)
    before, at, after = (np.array(road.at(1.0, z)) for z in (129.0, 130.0, 131.0))
    assert np.allclose(after - at, at - before, atol=2e-3)
    assert road.centre(-3.0) == 0.0
