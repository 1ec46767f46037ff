"""How rough, jointed, cracked and glossy the surfaces of a place are."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Texture:
    """Depths are shares of the colour (0 none), lengths metres; ``seen`` is how far joints and cracks are visible."""

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
    seen: float = 18.0
