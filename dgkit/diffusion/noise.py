"""Noise of an image as a function of its seed and its purpose alone, whatever the batch, order or engine."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

# (seed, purpose, shape) -> float32 CPU tensor of standard normal values.
# Purposes: "pass1", "bridge", "pass2", "fuse/<step>".
NoiseSource = Callable[[int, str, tuple[int, ...]], Tensor]


def seeded_noise(seed: int, purpose: str, shape: tuple[int, ...]) -> Tensor:
    """float32 CPU noise from a generator of its own for each (seed, purpose)."""
    generator = torch.Generator().manual_seed(noise_seed(seed, purpose))
    return torch.randn(shape, generator=generator)


def noise_seed(seed: int, purpose: str) -> int:
    """63 bits of SHA-256 over seed and purpose: neighbouring seeds share nothing."""
    digest = hashlib.sha256(f"{seed} {purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
