"""Settings of the two-pass sampler under names."""

from dataclasses import dataclass

from dgkit.errors import UsageError

GUIDANCE_SCALE = 7.5  # DGInStyle, where neither preset nor model states another


@dataclass(frozen=True)
class Preset:
    """How to sample.

    ``steps`` of ``solver`` in each pass; ``guidance_scale`` None: the model's own, else 7.5; ``stride`` between windows
    as a share of the tile; ``large_area`` in pixels of a 512 x 512 label, scaled with the area of others: connected
    components above it keep the first pass; ``fuse_level`` see :meth:`Schedule.fused`; ``rescale`` of the second pass;
    ``two_pass`` False: the first pass is the result.
    """

    name: str
    steps: int = 20
    guidance_scale: float | None = None
    solver: str = "ddim"
    stride: float = 0.25
    large_area: int = 30_000
    fuse_level: str = "reached"
    rescale: int = 2
    two_pass: bool = True

    def __post_init__(self) -> None:
        checks = (
            (self.fuse_level in ("official", "reached"), f"fuse level {self.fuse_level!r}; allowed: official, reached"),
            (0.0 < self.stride <= 1.0, f"stride {self.stride} of the tile; allowed: above 0, at most 1"),
            (self.rescale >= 1, f"rescale {self.rescale}; allowed: 1 or more"),
            (self.large_area >= 0, f"large area {self.large_area} px; allowed: 0 or more"),
        )
        for fine, message in checks:
            if not fine:
                raise UsageError(f"preset {self.name!r}: {message}")


PRESETS = {
    preset.name: preset
    for preset in (
        # DGInStyle, demo.py: 25 windows on a 128 x 128 canvas; gen_datasets.py used 81 (stride 1/8) and 20000 px.
        Preset("official", guidance_scale=7.5, fuse_level="official"),
        Preset("exact"),
        Preset("one-pass", two_pass=False),
    )
}


def find_preset(name: str) -> Preset:
    """The preset called ``name``; UsageError lists the known ones."""
    if name not in PRESETS:
        raise UsageError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
    return PRESETS[name]
