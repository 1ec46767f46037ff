"""The state of a scene while it is composed, shared by the modules that add to it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dgkit.world.camera import Camera, Road
from dgkit.world.colour import RGB, vary
from dgkit.world.frame import Frame
from dgkit.world.ranges import uniform
from dgkit.world.role import Palette, Role
from dgkit.world.town.ground import KERB, Ground

BACKDROP, HOUSES, STREET = 0, 2, 3  # layers, drawn in this order; the ground comes after the backdrop


@dataclass
class Town:
    """A street and everything in it; ``items`` are (layer, depth [m], painter, its arguments after the canvas)."""

    rng: np.random.Generator
    role: Role
    palette: Palette
    camera: Camera
    road: Road
    ground: Ground
    items: list[tuple[int, float, Callable[..., object], tuple[Any, ...]]] = field(default_factory=list)

    def chance(self, name: str) -> bool:
        """Draw whether this scene gets the object, with the probability that the role gives it."""
        return bool(self.rng.random() < self.role.chances[name])

    def odds(self, probability: float) -> bool:
        """Return True with the given probability."""
        return bool(self.rng.random() < probability)

    def uniform(self, low: float, high: float) -> float:
        """Draw a value between ``low`` and ``high``."""
        return uniform(self.rng, low, high)

    def integer(self, low: int, high: int) -> int:
        """Draw a whole number in low..high-1."""
        return int(self.rng.integers(low, high))

    def seed(self) -> int:
        """Draw a seed for an object's own generator."""
        return self.integer(0, 1 << 30)

    def side(self) -> int:
        """Draw a side of the road: -1 (left) or 1 (right)."""
        return -1 if self.odds(0.5) else 1

    def pick(self, options: tuple[RGB, ...], amount: float = 0.1) -> RGB:
        """Draw one of the colours, slightly varied."""
        return vary(options[self.integer(0, len(options))], self.rng, amount)

    def add(self, layer: int, depth: float, painter: Callable[..., object], *arguments: Any) -> None:
        """Queue ``painter(canvas, *arguments)``: layers are drawn in order, each far to near."""
        self.items.append((layer, depth, painter, arguments))

    def frame(self, lateral: float, z: float, turn: float = 0.0, up: float = 0.0, scale: float = 1.0) -> Frame:
        """Return a frame on the ground that follows the road's heading, turned by ``turn`` radians."""
        return Frame(self.road.at(lateral, z, up), self.road.yaw(z) + turn, scale)

    def facing(self, lateral: float, z: float, up: float = KERB, turn: float = 0.0) -> Frame:
        """Return a frame whose sheet faces the camera, turned by ``turn`` radians."""
        origin = self.road.at(lateral, z, up)
        return Frame(origin, float(np.arctan2(origin[0] - self.camera.x, max(z, 1.0))) + turn)

    def crossed(self, z: float, margin: float = 2.0) -> bool:
        """Return whether a crossing street passes at ``z``, within ``margin`` metres."""
        cross = self.ground.crossroads
        return cross is not None and cross.near - margin < z < cross.far + margin

    def opens(self, side: int, near: float, far: float) -> bool:
        """Return whether a crossing street leaves on ``side`` between ``near`` and ``far``."""
        cross = self.ground.crossroads
        return cross is not None and side in cross.sides and near < cross.far + 3 and far > cross.near - 3
