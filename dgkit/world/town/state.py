"""Working state while a scene is composed, shared by the modules that fill it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dgkit.world.camera import Camera, Road
from dgkit.world.canvas import RGB
from dgkit.world.frame import Frame, vary
from dgkit.world.role import Palette, Role
from dgkit.world.town.ground import Ground

BACKDROP, HOUSES, STREET = 0, 2, 3  # layers, drawn in this order; the ground comes after the backdrop
KERB = 0.14  # metres


@dataclass
class Town:
    """``items`` are (layer, depth in metres, painter, its arguments after the canvas)."""

    rng: np.random.Generator
    role: Role
    palette: Palette
    camera: Camera
    road: Road
    flat: Ground
    items: list[tuple[int, float, Callable[..., object], tuple[Any, ...]]] = field(default_factory=list)

    def chance(self, name: str) -> bool:
        """Whether this scene gets the thing, at the role's odds."""
        return bool(self.rng.random() < self.role.chances[name])

    def odds(self, share: float) -> bool:
        """True with the given probability."""
        return bool(self.rng.random() < share)

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def integer(self, low: int, high: int) -> int:
        """A whole number in low..high-1."""
        return int(self.rng.integers(low, high))

    def seed(self) -> int:
        return self.integer(0, 1 << 30)

    def side(self) -> int:
        """-1 (left) or 1 (right)."""
        return -1 if self.odds(0.5) else 1

    def pick(self, options: tuple[RGB, ...], amount: float = 0.1) -> RGB:
        """One of the colours, slightly varied."""
        return vary(options[self.integer(0, len(options))], self.rng, amount)

    def add(self, layer: int, depth: float, painter: Callable[..., object], *arguments: Any) -> None:
        """Have ``painter(canvas, *arguments)`` called when its turn comes."""
        self.items.append((layer, depth, painter, arguments))

    def frame(self, lateral: float, z: float, turn: float = 0.0, up: float = 0.0, scale: float = 1.0) -> Frame:
        """A frame on the ground that follows the road's heading, turned by ``turn`` radians."""
        return Frame(self.road.at(lateral, z, up), self.road.yaw(z) + turn, scale)

    def facing(self, lateral: float, z: float, up: float = KERB, turn: float = 0.0) -> Frame:
        """A frame whose sheet faces the camera."""
        origin = self.road.at(lateral, z, up)
        return Frame(origin, float(np.arctan2(origin[0] - self.camera.x, max(z, 1.0))) + turn)

    def crossed(self, z: float, margin: float = 2.0) -> bool:
        """Whether a crossing street passes at ``z``."""
        cross = self.flat.crossroads
        return cross is not None and cross[0] - margin < z < cross[1] + margin

    def opens(self, side: int, near: float, far: float) -> bool:
        """Whether a crossing street opens on ``side`` between ``near`` and ``far``."""
        cross = self.flat.crossroads
        return cross is not None and side in cross[2] and near < cross[1] + 3 and far > cross[0] - 3
