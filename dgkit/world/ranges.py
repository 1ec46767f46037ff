"""Ranges that random values are drawn from."""

import numpy as np

Range = tuple[float, float]
"""Least and greatest value, both in the unit of the value."""


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a value between ``low`` and ``high``."""
    return float(rng.uniform(low, high))
