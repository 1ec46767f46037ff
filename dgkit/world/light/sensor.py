"""Cameras of the target sets: from incoming light to the pixels of a file.

They model tone, colour response, vignette, blur of optics and motion, colour fringes, noise in brightness and colour,
and JPEG. The roles ``source`` and ``prior`` use the plain lens of :mod:`dgkit.world.light.weather_effects` instead.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from dgkit.world.colour import RGB
from dgkit.world.ranges import Range, uniform

_TILE = 512


@dataclass(frozen=True)
class Sensor:
    """A camera model as ranges; lengths in image heights, noise in levels of 255, ``night`` multiplies the noise."""

    gamma: Range = (0.95, 1.05)  # below 1 brightens the mid-tones
    contrast: Range = (1.0, 1.1)
    saturation: Range = (0.8, 1.0)
    balance: RGB = (1.0, 1.0, 1.0)  # gains of the channels
    drift: float = 0.03  # standard deviation of the gains between pictures
    black: Range = (0.0, 0.03)  # black level as a share of white: flare and haze in the optics
    noise: Range = (1.5, 3.0)
    chroma: Range = (1.0, 2.0)
    night: float = 2.5
    vignette: Range = (0.1, 0.25)  # share of light lost in the corners
    soft: Range = (0.0018, 0.0026)
    motion: Range = (0.0, 0.0)  # sideways motion blur from turning
    zoom: Range = (0.0, 0.006)  # radial motion blur from driving, as a share of the size
    fringe: Range = (0.0, 0.0015)  # chromatic aberration: how much larger red is drawn than blue
    veil: Range = (0.0, 0.0)  # reflection of the dashboard in the windscreen, share of white
    drops: tuple[int, int] = (0, 0)  # raindrops on the glass when it rains
    jpeg: tuple[int, int] = (80, 95)


@dataclass(frozen=True)
class SensorSettings:
    """Settings of one picture, drawn from the ranges of a :class:`Sensor`; fields as there."""

    gamma: float
    contrast: float
    saturation: float
    gains: RGB
    black: float
    noise: float
    chroma: float
    vignette: float
    soft: float
    motion: float
    zoom: float
    fringe: float
    veil: float
    drops: int
    jpeg: int
    seed: int


def draw_settings(rng: np.random.Generator, sensor: Sensor, night: bool, rain: bool) -> SensorSettings:
    """Draw the settings of one picture."""

    def u(span: Range) -> float:
        return uniform(rng, *span)

    more = sensor.night if night else 1.0
    contrast = u(sensor.contrast)  # weaker at night, when it would swallow the shadows
    red, green, blue = (np.array(sensor.balance) * (1 + rng.normal(0, sensor.drift, 3))).tolist()
    return SensorSettings(
        u(sensor.gamma), 1 + 0.2 * (contrast - 1) if night else contrast, u(sensor.saturation), (red, green, blue),
        u(sensor.black), u(sensor.noise) * more, u(sensor.chroma) * more, u(sensor.vignette), u(sensor.soft),
        u(sensor.motion), u(sensor.zoom), u(sensor.fringe), u(sensor.veil) * (0.3 if night else 1.0),
        int(rng.integers(sensor.drops[0], sensor.drops[1] + 1)) if rain else 0,
        int(rng.integers(sensor.jpeg[0], sensor.jpeg[1] + 1)), int(rng.integers(1 << 30)),
    )  # fmt: skip


def develop(image: np.ndarray, settings: SensorSettings, exposure: float) -> np.ndarray:
    """Turn light float32 [H, W, 3], 255 = white, into the picture uint8 [H, W, 3] RGB."""
    height, width = image.shape[:2]
    mixing = np.full((3, 3), (1 - settings.saturation) / 3) + np.eye(3) * settings.saturation
    mixing = mixing * (exposure * np.array(settings.gains))
    image = cv2.transform(image.astype(np.float32, copy=False), mixing.astype(np.float32))
    if settings.veil > 0:
        image += (255 * settings.veil * _dashboard(height, width))[..., None]
    image *= 1 - np.float32(settings.vignette) * _corners(height, width)[..., None]
    levels = _tone(round(settings.gamma, 2), round(settings.contrast, 2), round(settings.black, 3))
    out = np.take(levels, np.clip(image + 0.5, 0, 511).astype(np.uint16))
    out = _wet_glass(_blur(out, settings), settings)
    return _compress(_grain(out, settings), settings.jpeg)


@lru_cache(maxsize=256)
def _tone(gamma: float, contrast: float, black: float) -> np.ndarray:
    """Return the tone curve uint8 [512]: gamma, contrast and a soft shoulder below white."""
    level = np.arange(512.0) / 255
    level = level**gamma
    level = 0.42 + (level - 0.42) * contrast
    level = np.where(level > 0.84, 0.84 + 0.16 * np.tanh((level - 0.84) / 0.3), level)
    return np.rint(np.clip(255 * (black + level * (1 - black)), 0, 255)).astype(np.uint8)


@lru_cache(maxsize=8)
def _corners(height: int, width: int) -> np.ndarray:
    """Return float32 [H, W]: 0 in the middle, 1 in the corners."""
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
    return (((x * x + y * y) / 2) ** 1.4).astype(np.float32)


@lru_cache(maxsize=8)
def _dashboard(height: int, width: int) -> np.ndarray:
    """Return the reflection of a dashboard in the lower half of a windscreen, float32 [H, W] 0..1."""
    y, x = np.linspace(0, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
    edge = 0.62 - 0.08 * x * x
    shape = 0.25 + np.clip((y - edge) * 9, 0, 1) * (0.75 - 0.5 * np.exp(-(((x - 0.25) / 0.18) ** 2)))
    return (shape * np.clip(1.15 - 0.3 * y, 0, 1)).astype(np.float32)


def _wet_glass(image: np.ndarray, settings: SensorSettings) -> np.ndarray:
    """Add drops on the glass; each shows a smeared, upside-down view."""
    if not settings.drops:
        return image
    height, width = image.shape[:2]
    rng = np.random.default_rng(settings.seed + 1)
    mask = np.zeros((height, width), np.uint8)
    for x, y, r in rng.random((settings.drops, 3)):
        axes = (max(1, round((0.006 + 0.016 * r * r) * height)), max(1, round((0.008 + 0.022 * r * r) * height)))
        cv2.ellipse(mask, (int(x * width), int(y * height)), axes, 0, 0, 360, 255, -1, cv2.LINE_AA)
    mask = cv2.GaussianBlur(mask, (0, 0), height / 300)
    smear = cv2.GaussianBlur(cv2.resize(image[::-1], None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA), (0, 0), 2)
    smear = cv2.resize(smear, (width, height), interpolation=cv2.INTER_LINEAR)
    share = (mask.astype(np.float32) * (0.75 / 255))[..., None]
    return np.rint(image + (smear - image.astype(np.float32)) * share).astype(np.uint8)


def _blur(image: np.ndarray, settings: SensorSettings) -> np.ndarray:
    height, width = image.shape[:2]
    image = cv2.GaussianBlur(image, (0, 0), max(0.3, settings.soft * height))
    if (span := round(settings.motion * height)) >= 2:
        image = cv2.blur(image, (span, 1))
    for scale, share in ((1 + settings.zoom, 0.5),) if settings.zoom > 0.002 else ():
        image = cv2.addWeighted(image, 1 - share, _scaled(image, scale), share, 0)
    if settings.fringe * width > 0.4:
        image[..., 0] = _scaled(image[..., 0], 1 + settings.fringe)
    return image


def _scaled(image: np.ndarray, scale: float) -> np.ndarray:
    """Return the image enlarged around its centre."""
    height, width = image.shape[:2]
    shift = ((1 - scale) * (width - 1) / 2, (1 - scale) * (height - 1) / 2)
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], np.float32)
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


@lru_cache(maxsize=4)
def _fields(down: int, across: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the noise tiles, repeated so that a picture can be cut at any offset within the first tile."""
    luma, chroma = _tiles()
    return np.tile(luma, (down, across, 1)), np.tile(chroma, (down, across, 1))


@lru_cache(maxsize=1)
def _tiles() -> tuple[np.ndarray, np.ndarray]:
    """Return two noise tiles int16 [512, 512, 3] of standard deviation 32: grey, and coloured with blobs of 2 px."""
    rng = np.random.default_rng(5)
    luma = rng.standard_normal((_TILE, _TILE, 1), dtype=np.float32)
    small = rng.standard_normal((_TILE // 2, _TILE // 2, 3), dtype=np.float32)
    chroma = cv2.resize(small, (_TILE, _TILE), interpolation=cv2.INTER_CUBIC)
    chroma -= chroma.mean(2, keepdims=True)
    luma, chroma = np.repeat(luma, 3, 2) * 32, chroma / chroma.std() * 32
    return np.rint(luma).astype(np.int16), np.rint(chroma).astype(np.int16)


def _grain(image: np.ndarray, settings: SensorSettings) -> np.ndarray:
    height, width = image.shape[:2]
    rng = np.random.default_rng(settings.seed)
    parts = []
    for field in _fields(height // _TILE + 2, width // _TILE + 2):
        y, x = (int(v) for v in rng.integers(0, _TILE, 2))
        parts.append(field[y : y + height, x : x + width])
    noise = cv2.addWeighted(parts[0], settings.noise / 32, parts[1], settings.chroma / 32, 0)
    return cv2.add(image, noise, dtype=cv2.CV_8U)


def _compress(image: np.ndarray, quality: int) -> np.ndarray:
    """Compress to JPEG and decode again."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
