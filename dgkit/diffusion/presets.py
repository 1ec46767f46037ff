"""Presets: named settings of the two-pass sampler."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from dgkit.diffusion.timesteps import ETA, SPACINGS, find_solver
from dgkit.documents import DocumentError, parse_yaml
from dgkit.errors import UsageError, did_you_mean, shown

GUIDANCE_SCALE = 7.5  # that of DGInStyle, if neither preset nor model has one
FUSE_LEVELS = ("official", "reached")
WINDOWS = ("grid", "cover")
WEIGHTS = ("equal", "smooth")
BRIDGES = ("image", "latent")
FUSE_NOISES = ("fresh", "fixed")


EXAMPLE = "for example --preset exact:steps=12,solver=dpm++2m"


@dataclass(frozen=True)
class Preset:
    """Sampler settings. Those from ``second_start`` on save evaluations; measured in docs/results/presets.md."""

    name: str
    steps: int = 20
    """Steps of the solver in each pass."""
    guidance_scale: float | None = None
    """Classifier-free guidance scale; None: that of the model, else :data:`GUIDANCE_SCALE`."""
    solver: str = "ddim"
    """A name of :data:`dgkit.diffusion.timesteps.SOLVERS`."""
    stride: float = 0.25
    """Distance between windows as a share of the tile."""
    large_area: int = 30_000
    """Pixels of a 512 x 512 label, scaled with the area of other sizes; larger components keep the first pass."""
    fuse_level: str = "reached"
    """Noise level of the cells that keep the first pass, see :meth:`Schedule.fused`."""
    rescale: int = 2
    """Enlargement of the second pass."""
    two_pass: bool = True
    """False: the first pass is the result."""
    second_start: float = 1.0
    """Share of the schedule that the second pass runs; below 1 it starts from the first pass, noised to that level
    (Meng et al. 2022, SDEdit)."""
    guidance_low: float = 0.0
    """Noise level (standard deviation, 0 to 1) below which only the half with the text is evaluated
    (Kynkäänniemi et al. 2024)."""
    guidance_high: float = 1.0
    """Noise level above which only the half with the text is evaluated."""
    windows: str = "grid"
    """Windows of the second pass: a ``grid``, or a ``cover`` with as few windows as the changed area needs."""
    weights: str = "equal"
    """Weights of a window's cells in the average: ``equal``, or ``smooth``, which decreases towards the edges."""
    bridge: str = "image"
    """Between the passes: through the ``image``, or by enlarging the ``latent``."""
    fuse_noise: str = "fresh"
    """Noise of the cells that keep the first pass: ``fresh`` after every step, or ``fixed``, the initial noise of the
    pass, so that these cells follow one path through the noise levels."""
    spacing: str | None = None
    """Timestep spacing: ``leading``, ``trailing`` or ``linspace``; None: that of the model, else of the solver."""
    eta: float = ETA
    """Share of the noise that each step of solver ``tcd`` replaces, 0 to 1."""
    adapter: str | None = None
    """The LoRA that the preset is made for, as ``--lora`` takes it."""

    def __post_init__(self) -> None:
        low, high = self.guidance_low, self.guidance_high
        checks = (
            (0.0 < self.stride <= 1.0, f"stride {self.stride} of the tile; allowed: above 0, at most 1"),
            (self.rescale >= 1, f"rescale {self.rescale}; allowed: 1 or more"),
            (self.large_area >= 0, f"large area {self.large_area} px; allowed: 0 or more"),
            (0.0 < self.second_start <= 1.0, f"second start {self.second_start}; allowed: above 0, at most 1"),
            (0.0 <= self.eta <= 1.0, f"eta {self.eta}; allowed: 0 to 1"),
            (0.0 <= low <= high <= 1.0, f"guidance from noise {low} to {high}; allowed: 0 <= low <= high <= 1"),
            *(
                (value in known, f"{what} {value!r}; allowed: {', '.join(known)}")
                for what, value, known in (
                    ("fuse level", self.fuse_level, FUSE_LEVELS),
                    ("windows", self.windows, WINDOWS),
                    ("weights", self.weights, WEIGHTS),
                    ("bridge", self.bridge, BRIDGES),
                    ("fuse noise", self.fuse_noise, FUSE_NOISES),
                    ("spacing", self.spacing or SPACINGS[0], SPACINGS),
                )
            ),
        )
        find_solver(self.solver)
        for fine, message in checks:
            if not fine:
                raise UsageError(f"preset {self.name!r}: {message}", EXAMPLE)

    def guidance(self, model_scale: float | None = None) -> float:
        """Return the guidance scale to sample with: the preset's, else ``model_scale``, else DGInStyle's 7.5."""
        if self.guidance_scale is not None:
            return self.guidance_scale
        return GUIDANCE_SCALE if model_scale is None else model_scale


PRESETS = {
    preset.name: preset
    for preset in (
        # DGInStyle, demo.py: 25 windows on a 128 x 128 canvas; gen_datasets.py used 81 (stride 1/8) and 20000 px.
        Preset("official", guidance_scale=7.5, fuse_level="official"),
        Preset("exact"),
        Preset("one-pass", two_pass=False),
        # docs/results/presets.md gives the measured saving and cost of each of these settings.
        Preset("fast", steps=10, solver="dpm++2m", second_start=0.5, guidance_low=0.5, windows="cover",
               weights="smooth"),
        Preset("turbo", steps=6, solver="dpm++2m", second_start=0.34, guidance_scale=1.0, windows="cover",
               weights="smooth"),
        # For a prior with the LoRA named: a few steps without guidance, as its authors use it.
        Preset("lcm4", steps=4, solver="lcm", second_start=0.5, guidance_scale=1.0, windows="cover", weights="smooth",
               adapter="latent-consistency/lcm-lora-sdv1-5"),
        Preset("hyper8", steps=8, spacing="trailing", second_start=0.5, guidance_scale=1.0, windows="cover",
               weights="smooth", adapter="ByteDance/Hyper-SD/Hyper-SD15-8steps-lora.safetensors"),
    )
}  # fmt: skip


def find_preset(name: str) -> Preset:
    """Return the preset called ``name``, optionally with other values: ``exact:steps=10,solver=dpm++2m``.

    Raises UsageError for an unknown preset or setting, or an invalid value.
    """
    base, colon, changes = name.partition(":")
    if base not in PRESETS:
        raise UsageError(
            f"unknown preset {shown(base)}; known: {', '.join(PRESETS)}",
            did_you_mean(base, PRESETS, "use for example --preset fast"),
        )
    preset = PRESETS[base]
    return dataclasses.replace(preset, name=name, **_changes(name, changes)) if colon else preset


def _changes(name: str, text: str) -> dict[str, Any]:
    fields = {field.name: field for field in dataclasses.fields(Preset) if field.name not in ("name", "adapter")}
    found: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals or key not in fields:
            unknown = f"unknown setting {shown(part.strip())}; known: {', '.join(fields)}"
            raise UsageError(f"preset {shown(name)}: {unknown}", EXAMPLE)
        found[key] = _value(name, key, value)
    return found


def _value(name: str, key: str, text: str) -> Any:
    """Parse ``text`` in the type of the field; floats may be written as whole numbers."""
    default = {"guidance_scale": 0.0, "spacing": ""}.get(key, getattr(PRESETS["exact"], key))
    try:
        value = text if isinstance(default, str) else parse_yaml(text)
    except DocumentError:
        value = text  # of a type that no such setting has
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        raise UsageError(f"preset {shown(name)}: {key} is {shown(text)}; expected {type(default).__name__}", EXAMPLE)
    return value
