"""Surfaces of the target sets: asphalt with cracks, jointed paving, stained facades, leaves, reflections.

Everything fades with distance before it would alias. Arrays are float32 [H, W] or [H, W, 3].
"""

import numpy as np

from dgkit.world.canvas import ASPHALT, BRICK, FOLIAGE, GLASS, GRASS, MARKING, PAVING, PLASTER
from dgkit.world.classes import VEHICLES
from dgkit.world.gbuffer import GBuffer, noise_tile, sample
from dgkit.world.light.appearance import Appearance
from dgkit.world.light.texture import Texture

_IS_VEHICLE = np.isin(np.arange(256), VEHICLES)


def surfaces(b: GBuffer, appearance: Appearance, texture: Texture) -> tuple[np.ndarray, np.ndarray]:
    """Return the multiplier of the colour [H, W] and the light of the sky to add [H, W, 3]."""
    material = b.material
    upright = (material == BRICK) | (material == PLASTER) | (material == FOLIAGE)
    leaf = material == FOLIAGE
    along = np.where(upright, b.x * 0.8 + b.z * 0.6, b.lateral)
    along = np.where(
        leaf, np.abs(b.x - b.canvas.camera.x) - 0.8 * b.z, along
    )  # so that it varies along every sheet of leaves
    across = np.where(upright, b.y, b.z)
    pitch = np.where(leaf, np.float32(11), np.float32(24))
    grain = sample(noise_tile(23, 1, -0.35), along * pitch, across * pitch)
    stretch = np.where(upright, np.float32(0.6), np.float32(1.5))
    cloudy = sample(noise_tile(7), along * 2.3 + 40, across * stretch + 9)
    near = 1.0 / (1.0 + (b.depth / 20.0) ** 2)
    reach = np.where(leaf, np.clip(1.3 - b.depth / 60.0, 0.3, 1), near)
    fine, coarse = _gains(texture)
    out = 1 + np.take(fine, material) * grain * reach + np.take(coarse, material) * cloudy
    out *= _lines(b, texture, along, across, cloudy)
    foot = 0.7 + 0.3 * np.clip(b.above / 3.0, 0, 1)
    out *= np.where(b.ground | b.sky, np.float32(1), foot)
    gaps = np.where(leaf & (b.above > 1.5), np.clip((grain * reach - 0.95) * 1.6, 0, 1) * texture.gaps, 0)
    return np.clip(out, 0.2, 1.7).astype(np.float32), _sky_light(b, appearance, texture, gaps)


def _gains(texture: Texture) -> tuple[np.ndarray, np.ndarray]:
    """Return the depth of the fine and of the coarse grain for every material, both float32 [256]."""
    fine, coarse = np.zeros(256, np.float32), np.zeros(256, np.float32)
    for material, a, c in (
        (ASPHALT, texture.grit, texture.patches), (PAVING, texture.grit * 0.8, texture.patches * 0.8),
        (GRASS, 0.24, 0.14), (BRICK, 0.09, texture.stains), (PLASTER, 0.06, texture.stains),
        (FOLIAGE, texture.leaves, 0.12), (GLASS, 0.0, 0.1), (MARKING, texture.grit * 1.3, texture.worn),
    ):  # fmt: skip
        fine[material], coarse[material] = a, c
    return fine, coarse


def _lines(b: GBuffer, texture: Texture, along: np.ndarray, across: np.ndarray, cloudy: np.ndarray) -> np.ndarray:
    """Return a multiplier for joints of slabs and courses, cracks and the darker paths of wheels."""
    material, out = b.material, np.ones(b.label.shape, np.float32)
    brick = np.maximum(_joint(across / texture.course, 0.14), 0.6 * _joint(along / (2.3 * texture.course), 0.07))
    out -= np.where(material == BRICK, texture.mortar * brick * np.clip(1.2 - b.depth / 26.0, 0, 1), 0)
    panel = np.maximum(_joint(across / 3.0, 0.02), _joint(along / 2.4, 0.025))
    out -= np.where(material == PLASTER, texture.panels * panel * np.clip(1.2 - b.depth / 50.0, 0, 1), 0)
    flat = slice(int(np.argmax(b.ground.any(1))), None)  # rows with ground
    material, along, across, lateral = material[flat], along[flat], across[flat], b.lateral[flat]
    close = np.clip(1.25 - b.depth[flat] / texture.detail_range, 0, 1)
    joint = np.maximum(_joint(along / texture.slab, 0.06), _joint(across / texture.slab, 0.06))
    out[flat] -= np.where(material == PAVING, texture.joints * joint * close, 0)
    road = material == ASPHALT
    crack = np.exp(-((sample(noise_tile(31, 8), lateral * 4.2, b.z[flat] * 2.6) / 0.045) ** 2))
    out[flat] -= np.where(road & (cloudy[flat] > 0.2), texture.cracks * crack * close, 0)
    out[flat] -= np.where(road, texture.ruts * np.cos(lateral * np.float32(2 * np.pi / 1.65)), 0)
    return out


def _joint(x: np.ndarray, half: float) -> np.ndarray:
    """Return 1 at whole numbers, falling to 0 at a distance of ``half``."""
    away = np.abs(x - np.rint(x))
    return np.clip(1.6 - away * (1.6 / half), 0, 1)


def _sky_light(b: GBuffer, appearance: Appearance, texture: Texture, gaps: np.ndarray) -> np.ndarray:
    """Return the light of the sky, mirrored by glass and car bodies or seen through gaps between leaves."""
    ripple = sample(noise_tile(7), (b.x + b.z) * 3.1, b.y * 5.3)
    is_glass = b.material == GLASS
    glass = np.where(is_glass, np.clip(0.3 + 0.2 * ripple + 0.02 * b.above, 0, 0.8), 0)
    body = np.take(_IS_VEHICLE, b.label) & ~is_glass
    shine = np.clip((b.above - 0.55) * 0.5 + 0.12 * ripple, 0, 0.35)
    strength = (glass + np.where(body, shine, 0)) * (texture.gloss * (0.12 if appearance.night else 1.0)) + gaps
    sky = (np.array(appearance.horizon) * 0.7 + np.array(appearance.zenith) * 0.3).astype(np.float32)
    return strength[..., None].astype(np.float32) * sky
