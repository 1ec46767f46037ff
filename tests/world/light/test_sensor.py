"""Cameras of the target roles: every effect works, and nothing is random beyond the seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dgkit.world.light.sensor import Sensor, SensorSettings, develop, draw_settings

NEUTRAL = SensorSettings(
    gamma=1.0, contrast=1.0, saturation=1.0, gains=(1.0, 1.0, 1.0), black=0.0, noise=0.0, chroma=0.0, vignette=0.0,
    soft=0.0, motion=0.0, zoom=0.0, fringe=0.0, veil=0.0, drops=0, jpeg=98, seed=3,
)  # fmt: skip


def flat(value: float = 120.0, height: int = 64, width: int = 128) -> np.ndarray:
    return np.full((height, width, 3), value, np.float32)


def edge() -> np.ndarray:
    image = flat(60.0)
    image[:, 64:] = 180.0
    return image


def slope(image: np.ndarray) -> float:
    """Return the largest step between neighbouring columns."""
    return float(np.abs(np.diff(image.astype(float).mean((0, 2)))).max())


def test_neutral_settings_keep_the_picture() -> None:
    assert np.abs(develop(flat(), NEUTRAL, 1.0).astype(int) - 120).max() <= 2


def test_noise_is_a_function_of_the_seed() -> None:
    noisy = replace(NEUTRAL, noise=6.0, chroma=4.0)
    one, two = develop(edge(), noisy, 1.0), develop(edge(), noisy, 1.0)
    assert np.array_equal(one, two)
    assert not np.array_equal(one, develop(edge(), replace(noisy, seed=4), 1.0))


def test_noise_in_brightness_and_in_colour() -> None:
    grey = develop(flat(), replace(NEUTRAL, noise=8.0), 1.0).astype(float)
    colour = develop(flat(), replace(NEUTRAL, chroma=8.0), 1.0).astype(float)
    assert 6 < grey.std() < 10
    assert np.ptp(grey, axis=2).mean() < 0.5 * np.ptp(colour, axis=2).mean()


def test_exposure_tone_gains_vignette_and_veil() -> None:
    assert develop(flat(), NEUTRAL, 1.4).mean() > develop(flat(), NEUTRAL, 1.0).mean() + 30
    assert develop(flat(), replace(NEUTRAL, gamma=0.8), 1.0).mean() > 130
    assert develop(flat(0.0), replace(NEUTRAL, black=0.1), 1.0).mean() == pytest.approx(25, abs=2)
    warm = develop(flat(), replace(NEUTRAL, gains=(1.2, 1.0, 0.8)), 1.0).mean((0, 1))
    assert warm[0] > warm[1] + 15 > warm[2] + 30
    corners = develop(flat(), replace(NEUTRAL, vignette=0.4), 1.0)
    assert corners[32, 64].mean() > 115 > 85 > corners[0, 0].mean()
    assert develop(flat(), replace(NEUTRAL, veil=0.2), 1.0)[50, 20].mean() > 140
    assert develop(flat(2000.0), NEUTRAL, 1.0).min() > 240


@pytest.mark.parametrize("change", [{"soft": 0.04}, {"motion": 0.15}, {"zoom": 0.1}])
def test_blur_softens_edges(change: dict[str, float]) -> None:
    image = flat(60.0)
    image[:, 100:] = 180.0
    assert slope(develop(image, replace(NEUTRAL, **change), 1.0)) < 0.8 * slope(develop(image, NEUTRAL, 1.0))


def test_fringes_colour_edges_away_from_the_middle() -> None:
    image = flat(60.0)
    image[:, 110:] = 180.0
    fringed = develop(image, replace(NEUTRAL, fringe=0.02), 1.0).astype(int)
    assert np.abs(fringed[:, 106:114, 0] - fringed[:, 106:114, 1]).max() > 20


def test_a_low_quality_leaves_blocks() -> None:
    noise = np.random.default_rng(0).uniform(60, 180, (64, 128, 3)).astype(np.float32)
    fine, coarse = (develop(noise, replace(NEUTRAL, jpeg=q), 1.0).astype(int) for q in (98, 40))
    assert np.abs(coarse - fine).mean() > 8


def test_drops_only_when_it_rains() -> None:
    sensor = Sensor(drops=(8, 8))
    dry, wet = (draw_settings(np.random.default_rng(1), sensor, False, rain) for rain in (False, True))
    assert (dry.drops, wet.drops) == (0, 8)
    steep = np.repeat(np.linspace(20, 230, 64, dtype=np.float32)[:, None, None], 128, 1).repeat(3, 2)
    clean, dropped = (develop(steep, replace(NEUTRAL, drops=n), 1.0).astype(int) for n in (0, 8))
    changed = (np.abs(clean - dropped).max(2) > 15).mean()
    assert 0.0005 < changed < 0.2


def test_settings_stay_within_the_ranges_of_the_sensor() -> None:
    sensor = Sensor(noise=(2.0, 3.0), night=2.0, jpeg=(70, 72))
    drawn = [draw_settings(np.random.default_rng(i), sensor, i % 2 == 1, False) for i in range(30)]
    assert all(2 <= s.noise <= 3 for s in drawn[::2]) and all(4 <= s.noise <= 6 for s in drawn[1::2])
    assert {s.jpeg for s in drawn} == {70, 71, 72}
