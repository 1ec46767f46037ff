"""Conversion between float and 8-bit images."""

from __future__ import annotations

import numpy as np
import torch

from dgkit.diffusion.pixels import resize, to_float, to_uint8


def test_a_round_trip_through_floats_is_exact() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(to_uint8(to_float(pixels)), pixels)
    extremes = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]).reshape(1, 1, 5).repeat(3, 1, 1)
    assert to_uint8(extremes)[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert resize(pixels, 10, 14).shape == (10, 14, 3) and resize(pixels, 5, 7) is pixels
