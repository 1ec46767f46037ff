"""Weather and lens effects, applied after lighting. Images are float32 [H, W, 3], colours 0..255."""

import cv2
import numpy as np

from dgkit.world.classes import ROAD, SIDEWALK
from dgkit.world.gbuffer import GBuffer, noise_tile, sample
from dgkit.world.light.appearance import Appearance

_SLUSH = np.array((132, 116, 98), np.float32)


def snow_ground(b: GBuffer, appearance: Appearance, image: np.ndarray) -> np.ndarray:
    """Cover the ground with smooth snow that has wheel tracks on the road."""
    tile = noise_tile(11, 16)
    soft = sample(tile, b.lateral * 4, b.z * 1.2)
    cover = np.where(b.label == ROAD, 0.74 + 0.05 * soft, 0.97)
    track = np.exp(-(((np.abs(b.lateral) % 3.2 - 0.85) / 0.3) ** 2)) + np.exp(
        -(((np.abs(b.lateral) % 3.2 - 2.35) / 0.3) ** 2)
    )
    cover = np.where(b.label == ROAD, cover - 0.42 * track * (0.85 + 0.15 * soft), cover) * appearance.snow
    cover = np.where(b.ground, np.clip(cover, 0, 1), 0)[..., None]
    white = (
        np.array(appearance.snow_colour, np.float32)
        * np.array(appearance.ambient, np.float32)
        * (1.03 + 0.015 * soft[..., None])
    )
    white = np.where((b.label == ROAD)[..., None], white * 0.95, white)
    if appearance.slush > 0:
        brown = appearance.slush * np.clip(0.55 + 0.35 * soft + 0.5 * track, 0, 1) * (b.label == ROAD)
        white = white + (_SLUSH * np.array(appearance.ambient, np.float32) - white) * brown[..., None].astype(
            np.float32
        )
    return image * (1 - cover) + white * cover


def reflect(b: GBuffer, appearance: Appearance, image: np.ndarray) -> np.ndarray:
    """Mirror objects in the wet ground, column by column, around their lowest point."""
    h, w = b.label.shape
    rows = np.arange(h, dtype=np.int32)[:, None]
    foot = np.maximum.accumulate(np.where(b.ground, -1, rows), axis=0)
    mirror = np.clip(2 * foot + 1 - rows, 0, h - 1)
    tall = cv2.GaussianBlur(image, (0, 0), sigmaX=h / 200, sigmaY=h / 40)
    seen = tall[mirror, np.arange(w)[None, :]]
    tile = noise_tile(11, 16)
    puddle = np.clip(0.72 + 0.18 * sample(tile, b.lateral * 6, b.z * 3), 0.3, 1.0)
    facing = np.clip(b.depth / 14.0, 0.35, 1.0)
    k = np.where(b.label == ROAD, 0.68, np.where(b.label == SIDEWALK, 0.3, 0.0)) * puddle * facing * appearance.wet
    return image + (seen - image) * (k * (foot >= 0))[..., None].astype(np.float32)


def precipitation(b: GBuffer, appearance: Appearance, image: np.ndarray) -> np.ndarray:
    """Draw falling snow or rain in front of everything."""
    h, w = b.label.shape
    rng = np.random.default_rng(appearance.seed)
    layer = np.zeros((h, w), np.uint8)
    unit = h / 256
    if appearance.flakes > 0:
        for x, y, r, a in rng.random((int(230 * appearance.flakes), 4)):
            centre = (int(x * w * 16), int(y * h * 16))
            cv2.circle(layer, centre, int((0.5 + 1.3 * r * r) * unit * 16), int(110 + 120 * a), -1, cv2.LINE_AA, 4)
        return (
            image
            + (np.float32(246) - image)
            * (cv2.GaussianBlur(layer, (0, 0), 0.5 * unit).astype(np.float32) / 255 * 0.85)[..., None]
        )
    if appearance.streaks > 0:
        slant = rng.uniform(-0.2, 0.2)
        for x, y, n, a in rng.random((int(150 * appearance.streaks), 4)):
            p = (int(x * w), int(y * h))
            length = (6 + 14 * n) * unit
            q = (int(p[0] + slant * length), int(p[1] + length))
            cv2.line(layer, p, q, int(50 + 90 * a), max(1, round(unit)), cv2.LINE_AA)
        drops = np.array((196, 206, 218), np.float32)
        return image + (drops - image) * (layer.astype(np.float32) * (0.6 / 255))[..., None]
    return image


def lens(image: np.ndarray, appearance: Appearance) -> np.ndarray:
    """Apply exposure, colour, slight blur, noise and a soft shoulder below white; returns uint8 [H, W, 3]."""
    h, w = image.shape[:2]
    contrast = 1.0 if appearance.night else appearance.contrast
    grey = np.full((3, 3), (1 - appearance.saturation) / 3) + np.eye(3) * appearance.saturation
    mixing = contrast * grey * (appearance.exposure * np.array(appearance.tint))
    lift = np.full((3, 1), 118.0 * appearance.exposure * (1 - contrast))
    image = cv2.transform(image.astype(np.float32, copy=False), np.hstack([mixing, lift]).astype(np.float32))
    image = cv2.GaussianBlur(image, (0, 0), 0.45 * h / 256)
    if appearance.noise > 0:
        rng = np.random.default_rng(appearance.seed + 1)
        image += rng.standard_normal((h, w, 1), dtype=np.float32) * np.float32(appearance.noise)
    return np.take(_SHOULDER, np.clip(image + 0.5, 0, 511).astype(np.uint16))


def _shoulder() -> np.ndarray:
    level = np.arange(512.0)
    return np.rint(np.where(level > 225, 225 + 30 * np.tanh((level - 225) / 60), level)).astype(np.uint8)


_SHOULDER = _shoulder()
