"""Roughness, joints, cracks and gloss of the surfaces of a place."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Texture:
    """Surface detail of one place; depths are shares of the colour (0 none), lengths metres."""

    grit: float = 0.1  # grain of asphalt and stone
    patches: float = 0.08  # coarse blotches of the ground
    slab: float = 0.5
    joints: float = 0.3
    course: float = 0.25  # height of a course of bricks or stones
    mortar: float = 0.2
    panels: float = 0.15  # joints of plaster and concrete
    stains: float = 0.1
    cracks: float = 0.35
    ruts: float = 0.04
    worn: float = 0.12  # road markings
    leaves: float = 0.3
    gaps: float = 0.5  # how much sky shows between leaves
    gloss: float = 0.5
    detail_range: float = 18.0  # distance up to which joints and cracks are visible
