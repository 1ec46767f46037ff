"""One scene of the city: a pure function of (role, seed, index).

Geometry, look and choice of style come from three generators, so that another style or size leaves the scene alone.
"""

import zlib
from dataclasses import dataclass

import numpy as np

from dgkit.errors import UsageError
from dgkit.labels import CLASSES
from dgkit.world.canvas import Canvas
from dgkit.world.gbuffer import Buffers
from dgkit.world.light import climate, look, shading
from dgkit.world.roles import PLAIN_STYLE, ROLES, STYLES
from dgkit.world.town import layout

_LAYOUT, _LOOK, _STYLE = 0, 1, 2  # generator streams


@dataclass(frozen=True)
class Scene:
    """image: uint8 [H, W, 3] RGB; label: uint8 [H, W] train ids 0..18 or 255; caption; style word or "none"."""

    image: np.ndarray
    label: np.ndarray
    caption: str
    style: str


def render(role: str, seed: int, index: int, *, height: int = 256, width: int = 512, style: str | None = None) -> Scene:
    """Draw scene ``index`` of ``role``; ``style`` replaces the look only, geometry and label stay.

    The same (role, seed, index) at another size is the same scene at another resolution.
    Raises UsageError for an unknown role or style, a negative seed or index, or a size below 32.
    """
    check(role, seed, index, height, width, style)
    recipe = ROLES[role]
    key = zlib.crc32(role.encode())
    town = layout.compose(np.random.default_rng([seed, index, _LAYOUT, key]), recipe)
    canvas = Canvas(town.camera, height, width)
    layout.paint(town, canvas)
    buffers = Buffers(canvas, town.road)
    style = style or style_of(role, seed, index)
    rng = np.random.default_rng([seed, index, _LOOK, key])
    chosen = _look(role, rng, style)
    return Scene(shading.shade(buffers, chosen), buffers.label, caption(buffers.label, style), style)


def _look(role: str, rng: np.random.Generator, style: str) -> look.Look:
    target = ROLES[role].climate
    if target is not None:
        return climate.forecast(rng, target, style)
    return look.source(rng) if role == "source" and style == PLAIN_STYLE else look.prior(rng, style)


def caption(label: np.ndarray, style: str) -> str:
    """Prompt of a picture: class names present, ascending train id (DGInStyle, gen_datasets.py)."""
    base = " ".join(CLASSES[i] for i in np.unique(label) if i < len(CLASSES))
    return base if style == PLAIN_STYLE else f"A city street scene with {base}, in {style} weather."


def style_of(role: str, seed: int, index: int) -> str:
    """The style that scene ``index`` of a known ``role`` has when none is asked for."""
    recipe = ROLES[role]
    names, odds = zip(*recipe.styles, strict=True)
    if recipe.in_turn:
        return str(names[index % len(names)])
    rng = np.random.default_rng([seed, index, _STYLE, zlib.crc32(role.encode())])
    return str(names[int(rng.choice(len(names), p=np.array(odds)))])


def check(role: str, seed: int, index: int, height: int, width: int, style: str | None = None) -> None:
    """Raise UsageError for arguments that :func:`render` does not take."""
    if role not in ROLES:
        raise UsageError(f"unknown role {role!r}; allowed: {', '.join(ROLES)}", "use --role source")
    if style is not None and style not in (*STYLES, PLAIN_STYLE):
        allowed = ", ".join((*STYLES, PLAIN_STYLE))
        raise UsageError(f"unknown style {style!r}; allowed: {allowed}", "leave the style out to draw one")
    if seed < 0 or index < 0:
        raise UsageError(f"seed {seed} and index {index} must not be negative", "use --seed 0")
    if height < 32 or width < 32:
        raise UsageError(f"size {width}x{height} is below 32x32", "use --height 256 --width 512")
