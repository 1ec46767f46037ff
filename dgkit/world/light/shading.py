"""Turns surface numbers into a picture: light, textures, shadows, sky and lamps.

All arrays are float32 [H, W] or [H, W, 3], colours 0..255, unless said otherwise.
"""

import cv2
import numpy as np

from dgkit.world.camera import Point
from dgkit.world.canvas import ASPHALT, BRICK, FOLIAGE, GLASS, GRASS, MARKING, PAVING, PLASTER, Canvas
from dgkit.world.classes import BUILDING
from dgkit.world.gbuffer import GBuffer, average, noise_tile, sample
from dgkit.world.light.appearance import Appearance
from dgkit.world.light.sensor import develop
from dgkit.world.light.surface_detail import surfaces
from dgkit.world.light.weather_effects import lens, precipitation, reflect, snow_ground

_BRIGHTEST = 0.6  # lamplight saturates here, so that a near lamp does not turn night into day
_GAIN = {ASPHALT: 0.07, PAVING: 0.06, GRASS: 0.16, BRICK: 0.07, PLASTER: 0.05, FOLIAGE: 0.2, GLASS: 0.0, MARKING: 0.05}


def shade(buffers: GBuffer, appearance: Appearance) -> np.ndarray:
    """Return the finished picture, uint8 [H, W, 3] RGB."""
    canvas = buffers.canvas
    colour = average(canvas, _table(canvas, appearance))
    alpha = colour[..., 3:] / 255.0
    light = _shadow(buffers, appearance)
    added = None
    if appearance.texture is None:
        texture = _texture(buffers, appearance)
    else:
        texture, added = surfaces(buffers, appearance, appearance.texture)
    if appearance.wet > 0:
        light *= np.where(buffers.ground, np.float32(1 - 0.42 * appearance.wet), np.float32(1 - 0.12 * appearance.wet))
    if appearance.snow > 0:
        image = snow_ground(buffers, appearance, colour[..., :3] * texture[..., None])
        image *= light[..., None]
    else:
        image = colour[..., :3] * (texture * light)[..., None]
    if added is not None:
        image += added
    if appearance.night:
        image *= _night_light(buffers, appearance)
    clear = np.exp(buffers.depth * np.float32(-1 / appearance.visibility))[..., None]
    image *= clear
    image += ((1 - clear) * (1 - alpha)) * np.array(appearance.haze, np.float32)
    image += _sky(buffers, appearance) * alpha
    glow = None
    if appearance.emission > 0:
        image, glow = _emit(buffers, appearance, image, clear)
    if appearance.wet > 0:
        image = reflect(buffers, appearance, image)
    if glow is not None:
        image = image + glow
    image = precipitation(buffers, appearance, image)
    return (
        lens(image, appearance) if appearance.sensor is None else develop(image, appearance.sensor, appearance.exposure)
    )


def _table(canvas: Canvas, appearance: Appearance) -> np.ndarray:
    """Return the colour of every surface under full light, uint8 [N, 4]; channel 3 is 255 for the sky."""
    albedo = np.array(canvas.colours, np.float32)
    snow = np.array(canvas.extras, np.float32)[:, :1] * appearance.snow
    albedo = albedo + (np.array(appearance.snow_colour, np.float32) - albedo) * np.clip(snow * 1.1, 0, 1)
    normal = np.array(canvas.normals, np.float32)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    direct = np.maximum(0.0, normal @ np.array(appearance.sun, np.float32))[:, None]
    ambient = 0.8 + 0.2 * normal[:, 1:2]
    if appearance.night:  # lamps are added per pixel; here only the shape of objects counts
        light = np.repeat(0.8 + 0.2 * normal[:, 1:2] - 0.1 * np.abs(normal[:, :1]), 3, 1)
    else:
        light = ambient * np.array(appearance.ambient, np.float32) + direct * np.array(appearance.direct, np.float32)
    out = np.zeros((len(albedo), 4), np.uint8)
    out[:, :3] = np.clip(albedo * light, 0, 255)
    out[0] = (0, 0, 0, 255)
    return out


def _texture(b: GBuffer, appearance: Appearance) -> np.ndarray:
    """Return a multiplier around 1: material grain that fades with distance, and darkening towards the ground."""
    tile = noise_tile(7)
    gain = np.zeros(256, np.float32)
    for material, amount in _GAIN.items():
        gain[material] = amount
    upright = np.isin(b.material, (BRICK, PLASTER, FOLIAGE))
    along = np.where(upright, b.x * 0.7 + b.z * 0.7, b.lateral)
    across = np.where(upright, b.y, b.z)
    scale = np.where(b.material == FOLIAGE, 26.0, 10.0).astype(np.float32)
    grain = sample(tile, along * scale, across * scale)
    fade = 1.0 / (1.0 + (b.depth / 24.0) ** 2)
    coarse = sample(tile, along * 1.3 + 31, across * 1.3 + 17)
    out = 1 + gain[b.material] * (0.55 * grain * fade + 0.5 * coarse)
    bricks = (b.material == BRICK) & (b.depth < 40)
    course = np.cos(b.y * (2 * np.pi / 0.3)) * np.clip(1 - b.depth / 22.0, 0, 1)
    out = np.where(bricks, out - 0.05 * course, out)
    foot = 0.78 + 0.22 * np.clip(b.above / 2.5, 0, 1)
    out = np.where(b.ground | b.sky, out, out * foot)
    wheel = np.cos(b.lateral * (2 * np.pi / 1.65))
    return np.where(b.material == ASPHALT, out + 0.022 * wheel, out).astype(np.float32)


def _shadow(b: GBuffer, appearance: Appearance) -> np.ndarray:
    """Return a multiplier: shadows cast by the sun, and contact shadows below objects."""
    canvas = b.canvas
    shape = canvas.ids.shape
    out = np.ones(b.label.shape, np.float32)
    under = np.zeros(shape, np.uint8)
    for points in canvas.contacts:
        canvas.fill_mask(under, points, 255)
    soft = cv2.GaussianBlur(
        cv2.resize(under, (canvas.width, canvas.height), interpolation=cv2.INTER_AREA), (0, 0), canvas.height / 160
    )
    out -= np.where(b.ground, soft.astype(np.float32) * (0.5 / 255), 0)
    if appearance.shadows > 0:
        cast = np.zeros(shape, np.uint8)
        sx, sy, sz = appearance.sun
        for points, height in canvas.casters:
            dx, dz = -sx / sy * height, -sz / sy * height
            both = [*points, *[(p[0] + dx, p[1], p[2] + dz) for p in points]]
            canvas.fill_mask(cast, _hull(both), 255)
        cast = cv2.resize(cast, (canvas.width, canvas.height), interpolation=cv2.INTER_AREA)
        cast = cv2.GaussianBlur(cast, (0, 0), canvas.height / 400)
        out *= 1 - np.where(b.ground, cast.astype(np.float32) * (appearance.shadows / 255), 0)
    return out


def _hull(points: list[Point]) -> list[Point]:
    """Return the convex hull on the ground plane."""
    flat = np.array([(p[0], p[2]) for p in points], np.float32)
    return [points[int(i)] for i in cv2.convexHull(flat, returnPoints=False).ravel()]


def _night_light(b: GBuffer, appearance: Appearance) -> np.ndarray:
    """Return the light of street lamps and of the camera's own headlights, float32 [H, W, 3]."""
    light = np.empty((*b.label.shape, 3), np.float32)
    light[:] = appearance.ambient
    lamps = sorted(b.canvas.lamps, key=lambda lamp: abs(lamp[0][2]))[:10]
    small = (slice(None, None, 2), slice(None, None, 2))
    x, y, z = b.x[small], b.y[small], b.z[small]
    pool = np.zeros((*x.shape, 3), np.float32)
    for (px, py, pz), rgb, radius in lamps:
        d2 = (x - px) ** 2 + (z - pz) ** 2 + 0.35 * (y - py) ** 2
        fall = 1.15 / (1.0 + d2 / (0.28 * radius * radius)) ** 1.7
        pool += fall[..., None] * (np.array(rgb, np.float32) / 255)
    side = (x - b.canvas.camera.x) / np.maximum(z, 1.0)
    beam = (
        np.exp(-((side / 0.32) ** 2))
        * np.clip(z / 5, 0, 1)
        / (1 + (z / 15) ** 2)
        * np.clip(1.5 - (y + 0.2) / 2.2, 0.08, 1)
    )
    pool += beam[..., None] * np.array((1.0, 0.96, 0.86), np.float32)
    if appearance.lamps != 1.0:
        pool *= np.float32(appearance.lamps)
    big = cv2.resize(pool, (b.label.shape[1], b.label.shape[0]), interpolation=cv2.INTER_LINEAR)
    return light + _BRIGHTEST * (1 - np.exp(-big / _BRIGHTEST))


def _sky(b: GBuffer, appearance: Appearance) -> np.ndarray:
    rays = b.rays[::2, ::2]
    up = rays[..., 1] / np.sqrt((rays * rays).sum(2))
    t = np.clip(up / 0.42, 0, 1)[..., None] ** 0.75
    sky = np.array(appearance.horizon, np.float32) * (1 - t) + np.array(appearance.zenith, np.float32) * t
    if appearance.clouds > 0.01:
        span = 1.0 / (np.clip(up, 0, 1) + 0.12)
        tile = noise_tile(3, 8)
        offset = appearance.seed % 251
        n = sample(tile, rays[..., 0] * span * 26 + offset, rays[..., 2] * span * 26 + offset * 2)
        cover = np.clip((n + 2.6 * appearance.clouds - 1.1) * 0.9, 0, 1) * np.clip(up * 9, 0, 1)
        cover = cover * (0.85 if appearance.clouds < 0.6 else 0.75)
        shaded = np.array(appearance.cloud, np.float32) * (1.0 - 0.07 * np.clip(n, 0, 1))[..., None]
        sky = sky + (shaded - sky) * cover[..., None]
    if appearance.night:
        sky = sky + 14.0 * np.clip(0.12 - up, 0, 0.12)[..., None] / 0.12
    return cv2.resize(sky, (b.label.shape[1], b.label.shape[0]), interpolation=cv2.INTER_LINEAR)


def _emit(b: GBuffer, appearance: Appearance, image: np.ndarray, clear: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the image with lamps and lit windows added, and their glow."""
    canvas = b.canvas
    table = np.zeros((len(canvas.labels), 4), np.uint8)
    table[:, :3] = np.clip(np.array(canvas.emissions, np.float32), 0, 255)
    own = average(canvas, table)[..., :3] * appearance.emission
    building = np.where(b.label == BUILDING, 0.95 if appearance.night else 0.25, 1.0)[..., None].astype(np.float32)
    own = own * building
    through = clear ** (0.45 if not appearance.night else 1.0)
    image = np.maximum(image, own * through) * 0.85 + 0.15 * (image + own * through)
    reach = canvas.height / 36
    small = cv2.resize(own * through, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    halo = cv2.GaussianBlur(small, (0, 0), reach / 4) * 0.55 + cv2.GaussianBlur(small, (0, 0), reach) * 0.7
    glow = cv2.resize(halo, (canvas.width, canvas.height), interpolation=cv2.INTER_LINEAR)
    return image, glow * (0.8 if appearance.night else 0.35)
