"""Light and weather of the target sets: other skies, fogs, snows and nights than in the source."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from dgkit.world.colour import BLACK, RGB, mix
from dgkit.world.light.appearance import Appearance, sun_between, without_sun
from dgkit.world.light.sensor import Sensor, draw_settings
from dgkit.world.light.texture import Texture
from dgkit.world.ranges import Range, uniform


@dataclass(frozen=True)
class Daylight:
    """Light by day. Pairs of colours are (fair, overcast); ``sun`` is its height in radians, ``visibility`` metres."""

    zenith: tuple[RGB, RGB]
    horizon: tuple[RGB, RGB]
    cloud: tuple[RGB, RGB]
    direct: RGB
    ambient: tuple[RGB, RGB]
    overcast: Range  # 0 fair .. 1 overcast
    sun: Range
    visibility: Range
    shadows: float = 0.4
    dusk: float = 0.0  # share of pictures at dusk or dawn


@dataclass(frozen=True)
class Climate:
    """Weather of one place, its surfaces, and the cameras that look at it; visibilities are in metres."""

    day: Daylight
    texture: Texture
    sensors: tuple[Sensor, ...]
    fog: RGB
    fog_visibility: Range
    rain: RGB
    rain_streaks: Range
    rain_visibility: Range
    snow_colour: RGB
    slush: float  # how brown the snow on the road is, 0..1
    snow_cover: Range
    night_light: RGB  # ambient of the night, 1 = full day
    night_sky: tuple[RGB, RGB]  # zenith, horizon
    night_wet: float  # share of wet nights
    lamps: float = 1.0  # strength of street lamps and of the camera's own headlights


def draw_appearance(rng: np.random.Generator, climate: Climate, style: str) -> Appearance:
    """Draw an appearance of the climate in the given style."""
    fields = _STYLES[style](rng, climate)
    sensor = climate.sensors[int(rng.integers(len(climate.sensors)))]
    exposure = fields.pop("exposure", 1.0) * uniform(rng, 0.9, 1.12)
    return Appearance(
        style,
        exposure=exposure,
        noise=0.0,
        seed=int(rng.integers(1 << 30)),
        texture=climate.texture,
        snow_colour=climate.snow_colour,
        slush=climate.slush,
        lamps=climate.lamps,
        sensor=draw_settings(rng, sensor, style == "night", style == "rainy"),
        **fields,
    )


def _daylight(rng: np.random.Generator, climate: Climate, overcast: float) -> dict[str, Any]:
    day = climate.day
    if rng.random() < day.dusk:
        return _dusk(rng, climate)
    direct = mix(day.direct, (0.05, 0.05, 0.05), overcast)
    horizon = mix(*day.horizon, overcast)
    return {
        "sun": sun_between(rng, *day.sun),
        "direct": direct,
        "ambient": mix(*day.ambient, overcast),
        "zenith": mix(*day.zenith, overcast),
        "horizon": horizon,
        "haze": mix(horizon, (206, 208, 210), 0.3),
        "visibility": uniform(rng, *day.visibility),
        "clouds": 0.25 + 0.6 * overcast,
        "cloud": mix(*day.cloud, overcast),
        "shadows": day.shadows * (1 - overcast),
        "emission": 0.0,
    }


def _dusk(rng: np.random.Generator, climate: Climate) -> dict[str, Any]:
    late = uniform(rng, 0, 1)
    return {
        "sun": sun_between(rng, 0.12, 0.3),
        "direct": mix((0.34, 0.22, 0.12), (0.06, 0.04, 0.05), late),
        "ambient": mix((0.52, 0.47, 0.46), (0.34, 0.33, 0.37), late),
        "zenith": mix((104, 122, 156), (40, 48, 78), late),
        "horizon": mix((250, 204, 150), (222, 138, 88), late),
        "haze": mix((214, 176, 150), (120, 92, 100), late),
        "visibility": uniform(rng, *climate.day.visibility),
        "clouds": uniform(rng, 0.2, 0.6),
        "cloud": mix((236, 176, 140), (124, 92, 96), late),
        "shadows": 0.15,
        "emission": 0.5 + 0.4 * late,
    }


def _plain(rng: np.random.Generator, climate: Climate) -> dict[str, Any]:
    return _daylight(rng, climate, uniform(rng, *climate.day.overcast))


def _sunny(rng: np.random.Generator, climate: Climate) -> dict[str, Any]:
    return _daylight(rng, climate, uniform(rng, 0.0, 0.15))


def _clouded(rng: np.random.Generator, sky: RGB, light: float, visibility: Range) -> dict[str, Any]:
    """Draw a sky of one colour without sun; ``light`` is its strength."""
    k = uniform(rng, 0.88, 1.08)
    tone = mix((light, light, light), (light * sky[0] / 200, light * sky[1] / 200, light * sky[2] / 200), 0.6)
    return without_sun(
        rng, visibility, direct=(0.04, 0.04, 0.04), ambient=tone, zenith=mix(BLACK, sky, 0.88 * k),
        horizon=mix(BLACK, sky, k), haze=mix(BLACK, sky, 0.97 * k), clouds=0.6, cloud=mix(BLACK, sky, 0.8 * k),
    )  # fmt: skip


def _foggy(rng: np.random.Generator, climate: Climate) -> dict[str, Any]:
    thick = _clouded(rng, climate.fog, 0.74, climate.fog_visibility)
    return {**thick, "zenith": thick["horizon"], "haze": thick["horizon"], "clouds": 0.0,
            "emission": uniform(rng, 0.3, 0.7), "wet": float(rng.choice((0.0, 0.35)))}  # fmt: skip


def _rainy(rng: np.random.Generator, climate: Climate) -> dict[str, Any]:
    return {
        **_clouded(rng, climate.rain, 0.72, climate.rain_visibility),
        "emission": uniform(rng, 0.35, 0.8),
        "wet": uniform(rng, 0.6, 1.0),
        "streaks": uniform(rng, *climate.rain_streaks),
    }


def _snowy(rng: np.random.Generator, climate: Climate) -> dict[str, Any]:
    return {
        **_clouded(rng, mix(climate.snow_colour, (196, 200, 206), 0.6), 0.82, (70.0, 240.0)),
        "emission": uniform(rng, 0.1, 0.4),
        "snow": uniform(rng, *climate.snow_cover),
        "flakes": float(rng.choice((0.0, 0.25, 0.7))),
    }


def _night(rng: np.random.Generator, climate: Climate) -> dict[str, Any]:
    k = uniform(rng, 0.85, 1.2)
    zenith, horizon = climate.night_sky
    return {
        "sun": sun_between(rng, 0.6, 1.2),
        "direct": (0.02, 0.02, 0.02),
        "ambient": mix(BLACK, climate.night_light, k),
        "zenith": zenith,
        "horizon": mix(BLACK, horizon, k),
        "haze": mix(zenith, horizon, 0.6),
        "visibility": uniform(rng, 140, 360),
        "clouds": uniform(rng, 0.05, 0.5),
        "cloud": mix(zenith, horizon, 0.8),
        "shadows": 0.0,
        "emission": 1.0,
        "night": True,
        "wet": 0.55 if rng.random() < climate.night_wet else 0.0,
    }


_STYLES = {
    "none": _plain, "sunny": _sunny, "foggy": _foggy, "rainy": _rainy, "snowy": _snowy, "night": _night,
}  # fmt: skip
