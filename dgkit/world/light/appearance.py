"""Lighting, sky and weather of a picture. They have their own random generator: geometry never depends on them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgkit.world.colour import RGB, mix
from dgkit.world.light.sensor import SensorSettings
from dgkit.world.light.texture import Texture
from dgkit.world.ranges import Range, uniform


@dataclass(frozen=True)
class Appearance:
    """Lighting, weather and lens of one picture; colours are RGB 0..255, strengths relative to full daylight."""

    style: str
    sun: tuple[float, float, float]  # unit vector towards the sun
    direct: RGB  # sunlight, 1.0 = neutral full
    ambient: RGB  # skylight
    zenith: RGB
    horizon: RGB
    haze: RGB
    visibility: float  # metres after which haze has taken 63 %
    clouds: float  # 0 clear .. 1 overcast
    cloud: RGB
    shadows: float  # depth of cast shadows 0..1
    emission: float  # strength of lamps and lit windows, 0..1
    snow: float = 0.0
    wet: float = 0.0
    flakes: float = 0.0
    streaks: float = 0.0
    night: bool = False
    exposure: float = 1.0
    tint: RGB = (1.0, 1.0, 1.0)
    contrast: float = 1.0
    saturation: float = 1.0
    noise: float = 1.0
    seed: int = 0
    snow_colour: RGB = (232, 237, 245)
    slush: float = 0.0  # how brown the snow on the road is, 0..1
    lamps: float = 1.0  # strength of street lamps and headlights at night
    texture: Texture | None = None  # None: the plain surfaces of source and prior
    sensor: SensorSettings | None = None  # None: the plain lens of source and prior


def sun_between(rng: np.random.Generator, low: float, high: float) -> tuple[float, float, float]:
    """Draw a unit vector to a sun behind or next to the camera, ``low`` to ``high`` radians up; most faces are lit."""
    around, up = rng.uniform(-1.9, 1.9), rng.uniform(low, high)
    return (float(np.sin(around) * np.cos(up)), float(np.sin(up)), float(-np.cos(around) * np.cos(up)))


def without_sun(rng: np.random.Generator, visibility: Range, **light: Any) -> dict[str, Any]:
    """Return the fields of a sky that casts no shadows: ``light``, a high sun, a visibility within the range."""
    sun = sun_between(rng, 0.8, 1.2)
    return {**light, "sun": sun, "visibility": uniform(rng, *visibility), "shadows": 0.0}


def source_appearance(rng: np.random.Generator) -> Appearance:
    """Draw the narrow game look: warm, crisp, saturated; only exposure, hour and colour temperature vary.

    Exposure covers dusk to noon on purpose: a model conditioned on labels then learns that brightness does not follow
    from the layout.
    """
    hour = uniform(rng, 0, 1)  # 0 noon, 1 late
    exposure = uniform(rng, 0.8, 1.1) if rng.random() < 0.55 else float(0.3 + 0.65 * rng.random())
    warm = float(rng.normal(0, 0.035))
    late = mix((1.0, 0.95, 0.84), (1.08, 0.86, 0.66), hour)
    return Appearance(
        "none",
        sun=sun_between(rng, 0.45, 0.95),
        direct=(0.72 * late[0], 0.72 * late[1], 0.72 * late[2]),
        ambient=(0.56, 0.57, 0.62),
        zenith=mix((74, 132, 206), (96, 120, 176), hour),
        horizon=mix((206, 222, 232), (250, 208, 160), hour),
        haze=mix((206, 212, 214), (240, 206, 170), hour),
        visibility=uniform(rng, 420, 700),
        clouds=uniform(rng, 0.1, 0.4),
        cloud=mix((250, 248, 244), (252, 224, 194), hour),
        shadows=0.5,
        emission=0.0,
        exposure=exposure,
        tint=(1.0 + warm, 1.0, 1.0 - warm),
        contrast=1.06,
        saturation=1.22,
        noise=0.6,
        seed=int(rng.integers(1 << 30)),
    )


def prior_appearance(rng: np.random.Generator, style: str) -> Appearance:
    """Draw an appearance of the given style, with a broad range of light and colours."""
    fields = _STYLES[style](rng)
    red, green, blue = (1.0 + rng.normal(0, 0.03, 3)).tolist()
    fields.setdefault("exposure", uniform(rng, 0.9, 1.1))
    return Appearance(
        style,
        tint=(red, green, blue),
        contrast=uniform(rng, 0.92, 1.12),
        noise=uniform(rng, 0.4, 2.0),
        seed=int(rng.integers(1 << 30)),
        **fields,
    )


def _none(rng: np.random.Generator) -> dict[str, Any]:
    grey = uniform(rng, 0, 1)  # 0 fair, 1 overcast
    return {
        "sun": sun_between(rng, 0.5, 1.2),
        "direct": mix((0.42, 0.41, 0.38), (0.12, 0.12, 0.12), grey),
        "ambient": mix((0.58, 0.6, 0.64), (0.78, 0.78, 0.8), grey),
        "zenith": mix((126, 162, 204), (176, 182, 190), grey),
        "horizon": mix((214, 222, 230), (216, 218, 220), grey),
        "haze": mix((204, 212, 220), (206, 208, 210), grey),
        "visibility": uniform(rng, 220, 600),
        "clouds": 0.35 + 0.55 * grey,
        "cloud": mix((240, 242, 244), (198, 202, 206), grey),
        "shadows": 0.3 * (1 - grey),
        "emission": 0.0,
        "saturation": uniform(rng, 0.75, 1.05),
    }


def _sunny(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "sun": sun_between(rng, 0.5, 1.0),
        "direct": (0.88, 0.82, 0.68),
        "ambient": (0.56, 0.6, 0.68),
        "zenith": (40, 108, 216),
        "horizon": (160, 206, 244),
        "haze": (188, 212, 236),
        "visibility": uniform(rng, 500, 900),
        "clouds": uniform(rng, 0.05, 0.4),
        "cloud": (255, 255, 255),
        "shadows": 0.42,
        "emission": 0.0,
        "saturation": uniform(rng, 1.1, 1.35),
        "exposure": uniform(rng, 1.0, 1.14),
    }


def _snowy(rng: np.random.Generator) -> dict[str, Any]:
    k = uniform(rng, 0.94, 1.03)
    sky = without_sun(
        rng, (90, 220), direct=(0.1, 0.1, 0.1), ambient=(0.84, 0.87, 0.92), zenith=(190 * k, 196 * k, 206 * k),
        horizon=(222 * k, 226 * k, 232 * k), haze=(220 * k, 225 * k, 232 * k), clouds=0.5, cloud=(206, 211, 219),
    )  # fmt: skip
    return {
        **sky,
        "emission": 0.25,
        "snow": uniform(rng, 0.85, 1.0),
        "flakes": uniform(rng, 0.3, 1.0),
        "saturation": uniform(rng, 0.6, 0.8),
    }


def _rainy(rng: np.random.Generator) -> dict[str, Any]:
    k = uniform(rng, 0.85, 1.1)
    sky = without_sun(
        rng, (90, 200), direct=(0.05, 0.05, 0.06), ambient=(0.8 * k, 0.86 * k, 0.94 * k),
        zenith=(116 * k, 132 * k, 152 * k), horizon=(168 * k, 182 * k, 198 * k), haze=(152 * k, 167 * k, 184 * k),
        clouds=0.85, cloud=(130 * k, 142 * k, 158 * k),
    )  # fmt: skip
    return {
        **sky,
        "emission": uniform(rng, 0.6, 0.85),
        "wet": uniform(rng, 0.75, 1.0),
        "streaks": uniform(rng, 0.5, 1.0),
        "saturation": uniform(rng, 0.7, 0.9),
    }


def _foggy(rng: np.random.Generator) -> dict[str, Any]:
    k = uniform(rng, 186, 218)
    grey: RGB = (k, k + 1, k + 2)
    sky = without_sun(
        rng, (16, 38), direct=(0.04, 0.04, 0.04), ambient=(0.72, 0.73, 0.74), zenith=grey, horizon=grey, haze=grey,
        clouds=0.0, cloud=grey,
    )  # fmt: skip
    return {**sky, "emission": uniform(rng, 0.5, 0.8), "saturation": uniform(rng, 0.6, 0.85)}


def _night(rng: np.random.Generator) -> dict[str, Any]:
    k = uniform(rng, 0.8, 1.25)
    return {
        "sun": sun_between(rng, 0.6, 1.2),
        "direct": (0.02 * k, 0.025 * k, 0.035 * k),
        "ambient": (0.17 * k, 0.18 * k, 0.25 * k),
        "zenith": (4, 6, 16),
        "horizon": (22 * k, 22 * k, 36 * k),
        "haze": (14, 15, 26),
        "visibility": uniform(rng, 250, 500),
        "clouds": 0.1,
        "cloud": (16, 17, 28),
        "shadows": 0.0,
        "emission": 1.0,
        "night": True,
        "exposure": 1.0,
        "wet": float(rng.choice((0.0, 0.0, 0.4))),
        "saturation": uniform(rng, 0.95, 1.15),
    }


_STYLES: dict[str, Callable[[np.random.Generator], dict[str, Any]]] = {
    "none": _none, "sunny": _sunny, "snowy": _snowy, "rainy": _rainy, "foggy": _foggy, "night": _night,
}  # fmt: skip
