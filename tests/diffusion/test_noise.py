"""Noise depends on seed and purpose only."""

from __future__ import annotations

import torch

from dgkit.diffusion.noise import noise_seed, seeded_noise


def test_noise_depends_on_seed_and_purpose_alone() -> None:
    first = seeded_noise(3, "pass1", (1, 4, 8, 8))
    state = torch.random.get_rng_state()
    seeded_noise(4, "pass1", (1, 4, 8, 8))
    assert torch.equal(seeded_noise(3, "pass1", (1, 4, 8, 8)), first)
    assert torch.equal(torch.random.get_rng_state(), state)  # the global generator is not used
    assert len({noise_seed(s, p) for s in range(50) for p in ("pass1", "pass2", "fuse/0", "fuse/10")}) == 200
    assert all(0 <= noise_seed(s, "bridge") < 2**63 for s in range(50))
    assert abs(float(seeded_noise(0, "x", (100_000,)).std()) - 1) < 0.02
