"""The procedural city: labelled street scenes in several styles, drawn from a seed alone."""

from dgkit.world.render import Scene, render
from dgkit.world.roles import ROLES
from dgkit.world.write import write_role

__all__ = ["ROLES", "Scene", "render", "write_role"]
