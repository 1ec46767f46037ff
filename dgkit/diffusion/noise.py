"""Noise of an image, determined by its seed and purpose alone, independent of batch, order and engine."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

# (seed, purpose, shape) -> float32 CPU tensor of standard normal values.
# Purposes: "pass1", "bridge", "pass2", "fuse/<step>"; "pass1/<step>" and "pass2/<step>" of solvers that add noise.
NoiseSource = Callable[[int, str, tuple[int, ...]], Tensor]


def seeded_noise(seed: int, purpose: str, shape: tuple[int, ...]) -> Tensor:
    """Return float32 CPU noise; every (seed, purpose) has its own generator."""
    generator = torch.Generator().manual_seed(noise_seed(seed, purpose))
    return torch.randn(shape, generator=generator)


def noise_seed(seed: int, purpose: str) -> int:
    """Return 63 bits of the SHA-256 over seed and purpose, so that neighbouring seeds are unrelated."""
    digest = hashlib.sha256(f"{seed} {purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
