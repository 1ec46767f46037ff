"""RGB colours and the arithmetic on them."""

import numpy as np

RGB = tuple[float, float, float]
"""Red, green and blue, 0..255; light is relative to white, 1.0 = unchanged."""

BLACK: RGB = (0.0, 0.0, 0.0)


def shade(rgb: RGB, k: float) -> RGB:
    """Return the colour times ``k``, clipped at 255."""
    return (min(255.0, rgb[0] * k), min(255.0, rgb[1] * k), min(255.0, rgb[2] * k))


def mix(a: RGB, b: RGB, t: float) -> RGB:
    """Blend two colours linearly: ``a`` at ``t`` = 0, ``b`` at 1."""
    return (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t)


def vary(rgb: RGB, rng: np.random.Generator, amount: float = 0.12) -> RGB:
    """Return the colour with a random brightness and a slight random shift of hue."""
    k = 1.0 + rng.uniform(-amount, amount)
    r, g, b = (
        min(max(c * k + s * 40, 0.0), 255.0) for c, s in zip(rgb, rng.uniform(-amount, amount, 3).tolist(), strict=True)
    )
    return (r, g, b)
