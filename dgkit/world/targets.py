"""The five target roles."""

from dgkit.world.recipe import Role

TARGETS: dict[str, Role] = {}
