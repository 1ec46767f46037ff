"""Light and weather of the target sets: other skies, fogs, snows and nights than in the source."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from dgkit.world.canvas import RGB
from dgkit.world.frame import mix
from dgkit.world.light.look import Look, sun_between
from dgkit.world.light.sensor import Range, Sensor, expose
from dgkit.world.light.texture import Texture


@dataclass(frozen=True)
class Day:
    """Daylight. Pairs of colours are (fair, overcast); ``grey`` is how overcast it is, 0..1; ``sun`` radians high."""

    zenith: tuple[RGB, RGB]
    horizon: tuple[RGB, RGB]
    cloud: tuple[RGB, RGB]
    direct: RGB
    ambient: tuple[RGB, RGB]
    grey: Range
    sun: Range
    sight: Range
    shadows: float = 0.4
    dusk: float = 0.0  # share of pictures at dusk or dawn


@dataclass(frozen=True)
class Climate:
    """Weather of one place, its surfaces, and the cameras that look at it."""

    day: Day
    texture: Texture
    sensors: tuple[Sensor, ...]
    fog: RGB
    fog_sight: Range
    rain: RGB
    rain_streaks: Range
    rain_sight: Range
    white: RGB  # colour of snow
    slush: float  # how brown the snow of the road is, 0..1
    snow_cover: Range
    night_light: RGB  # ambient of the night, 1 = full day
    night_sky: tuple[RGB, RGB]  # zenith, horizon
    night_wet: float  # share of wet nights
    lamps: float = 1.0  # strength of street lamps and own headlights


def forecast(rng: np.random.Generator, climate: Climate, style: str) -> Look:
    """A look of the climate in the given style."""
    fields = _WEATHER[style](rng, climate)
    sensor = climate.sensors[int(rng.integers(len(climate.sensors)))]
    exposure = fields.pop("exposure", 1.0) * float(rng.uniform(0.9, 1.12))
    return Look(
        style,
        exposure=exposure,
        noise=0.0,
        seed=int(rng.integers(1 << 30)),
        texture=climate.texture,
        white=climate.white,
        slush=climate.slush,
        lamps=climate.lamps,
        shot=expose(rng, sensor, style == "night", style == "rainy"),
        **fields,
    )


def _daylight(rng: np.random.Generator, climate: Climate, grey: float) -> dict[str, Any]:
    day = climate.day
    if rng.random() < day.dusk:
        return _dusk(rng, climate)
    direct = mix(day.direct, (0.05, 0.05, 0.05), grey)
    horizon = mix(*day.horizon, grey)
    return {
        "sun": sun_between(rng, *day.sun),
        "direct": direct,
        "ambient": mix(*day.ambient, grey),
        "zenith": mix(*day.zenith, grey),
        "horizon": horizon,
        "haze": mix(horizon, (206, 208, 210), 0.3),
        "sight": float(rng.uniform(*day.sight)),
        "clouds": 0.25 + 0.6 * grey,
        "cloud": mix(*day.cloud, grey),
        "shadows": day.shadows * (1 - grey),
        "emission": 0.0,
    }


def _dusk(rng: np.random.Generator, climate: Climate) -> dict[str, Any]:
    late = float(rng.uniform(0, 1))
    return {
        "sun": sun_between(rng, 0.12, 0.3),
        "direct": mix((0.34, 0.22, 0.12), (0.06, 0.04, 0.05), late),
        "ambient": mix((0.52, 0.47, 0.46), (0.34, 0.33, 0.37), late),
        "zenith": mix((104, 122, 156), (40, 48, 78), late),
        "horizon": mix((250, 204, 150), (222, 138, 88), late),
        "haze": mix((214, 176, 150), (120, 92, 100), late),
        "sight": float(rng.uniform(*climate.day.sight)),
        "clouds": float(rng.uniform(0.2, 0.6)),
        "cloud": mix((236, 176, 140), (124, 92, 96), late),
        "shadows": 0.15,
        "emission": 0.5 + 0.4 * late,
    }


def _plain(rng: np.random.Generator, climate: Climate) -> dict[str, Any]:
    return _daylight(rng, climate, float(rng.uniform(*climate.day.grey)))


def _sunny(rng: np.random.Generator, climate: Climate) -> dict[str, Any]:
    return _daylight(rng, climate, float(rng.uniform(0.0, 0.15)))


def _closed(rng: np.random.Generator, sky: RGB, light: float, sight: Range) -> dict[str, Any]:
    """A sky without sun; ``light`` is its strength."""
    k = float(rng.uniform(0.88, 1.08))
    tone = mix((light, light, light), (light * sky[0] / 200, light * sky[1] / 200, light * sky[2] / 200), 0.6)
    return {
        "sun": sun_between(rng, 0.8, 1.2),
        "direct": (0.04, 0.04, 0.04),
        "ambient": tone,
        "zenith": mix((0, 0, 0), sky, 0.88 * k),
        "horizon": mix((0, 0, 0), sky, k),
        "haze": mix((0, 0, 0), sky, 0.97 * k),
        "sight": float(rng.uniform(*sight)),
        "clouds": 0.6,
        "cloud": mix((0, 0, 0), sky, 0.8 * k),
        "shadows": 0.0,
    }


def _foggy(rng: np.random.Generator, climate: Climate) -> dict[str, Any]:
    thick = _closed(rng, climate.fog, 0.74, climate.fog_sight)
    return {**thick, "zenith": thick["horizon"], "haze": thick["horizon"], "clouds": 0.0,
            "emission": float(rng.uniform(0.3, 0.7)), "wet": float(rng.choice((0.0, 0.35)))}  # fmt: skip


def _rainy(rng: np.random.Generator, climate: Climate) -> dict[str, Any]:
    return {
        **_closed(rng, climate.rain, 0.72, climate.rain_sight),
        "emission": float(rng.uniform(0.35, 0.8)),
        "wet": float(rng.uniform(0.6, 1.0)),
        "streaks": float(rng.uniform(*climate.rain_streaks)),
    }


def _snowy(rng: np.random.Generator, climate: Climate) -> dict[str, Any]:
    return {
        **_closed(rng, mix(climate.white, (196, 200, 206), 0.6), 0.82, (70.0, 240.0)),
        "emission": float(rng.uniform(0.1, 0.4)),
        "snow": float(rng.uniform(*climate.snow_cover)),
        "flakes": float(rng.choice((0.0, 0.25, 0.7))),
    }


def _night(rng: np.random.Generator, climate: Climate) -> dict[str, Any]:
    k = float(rng.uniform(0.85, 1.2))
    zenith, horizon = climate.night_sky
    return {
        "sun": sun_between(rng, 0.6, 1.2),
        "direct": (0.02, 0.02, 0.02),
        "ambient": mix((0, 0, 0), climate.night_light, k),
        "zenith": zenith,
        "horizon": mix((0, 0, 0), horizon, k),
        "haze": mix(zenith, horizon, 0.6),
        "sight": float(rng.uniform(140, 360)),
        "clouds": float(rng.uniform(0.05, 0.5)),
        "cloud": mix(zenith, horizon, 0.8),
        "shadows": 0.0,
        "emission": 1.0,
        "night": True,
        "wet": 0.55 if rng.random() < climate.night_wet else 0.0,
    }


_WEATHER = {
    "none": _plain, "sunny": _sunny, "foggy": _foggy, "rainy": _rainy, "snowy": _snowy, "night": _night,
}  # fmt: skip
