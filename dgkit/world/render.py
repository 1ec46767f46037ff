"""One scene of the city: a pure function of (role, seed, index).

Geometry, appearance and choice of style use three random generators: another style or size never changes the scene.
"""

import zlib
from dataclasses import dataclass

import numpy as np

from dgkit.errors import UsageError, did_you_mean
from dgkit.prompts import STYLE_NAMES, caption, compose
from dgkit.styles import NO_STYLE
from dgkit.world.camera import Road
from dgkit.world.canvas import Canvas
from dgkit.world.gbuffer import GBuffer, label_map
from dgkit.world.light import climate, shading
from dgkit.world.light.appearance import Appearance, prior_appearance, source_appearance
from dgkit.world.roles import ROLES
from dgkit.world.town import layout

_LAYOUT, _APPEARANCE, _STYLE = 0, 1, 2  # generator streams


@dataclass(frozen=True)
class Scene:
    """One rendered street.

    ``image``: uint8 [H, W, 3] RGB; ``label``: uint8 [H, W], train ids 0..18 or 255; ``style``: its word or "none".
    """

    image: np.ndarray
    label: np.ndarray
    caption: str
    style: str


def render(role: str, seed: int, index: int, *, height: int = 256, width: int = 512, style: str | None = None) -> Scene:
    """Draw scene ``index`` of ``role``; ``style`` changes the appearance only, geometry and label stay the same.

    The same (role, seed, index) at another size is the same scene at another resolution.
    Raises UsageError for an unknown role or style, a negative seed or index, or a size below 32.
    """
    check_arguments(role, seed, index, height, width, style)
    buffers = GBuffer(*_draw(role, seed, index, height, width))
    style = style or style_of(role, seed, index)
    rng = np.random.default_rng([seed, index, _APPEARANCE, zlib.crc32(role.encode())])
    appearance = _draw_appearance(role, rng, style)
    return Scene(shading.shade(buffers, appearance), buffers.label, compose(caption(buffers.label), style), style)


def render_label(role: str, seed: int, index: int, *, height: int = 256, width: int = 512) -> np.ndarray:
    """Return the label map of :func:`render`, uint8 [H, W], without the picture, which takes almost half of the time.

    Raises as :func:`render`.
    """
    check_arguments(role, seed, index, height, width)
    canvas, _ = _draw(role, seed, index, height, width)
    return label_map(canvas)


def _draw(role: str, seed: int, index: int, height: int, width: int) -> tuple[Canvas, Road]:
    """Return the canvas of a scene with everything drawn, and its road."""
    rng = np.random.default_rng([seed, index, _LAYOUT, zlib.crc32(role.encode())])
    town = layout.compose(rng, ROLES[role])
    canvas = Canvas(town.camera, height, width)
    layout.paint(town, canvas)
    return canvas, town.road


def _draw_appearance(role: str, rng: np.random.Generator, style: str) -> Appearance:
    target = ROLES[role].climate
    if target is not None:
        return climate.draw_appearance(rng, target, style)
    if role == "source" and style == NO_STYLE:
        return source_appearance(rng)
    return prior_appearance(rng, style)


def style_of(role: str, seed: int, index: int) -> str:
    """Return the style that scene ``index`` of a known ``role`` has by default."""
    recipe = ROLES[role]
    names, probabilities = zip(*recipe.styles, strict=True)
    if recipe.round_robin:
        return str(names[index % len(names)])
    rng = np.random.default_rng([seed, index, _STYLE, zlib.crc32(role.encode())])
    return str(names[int(rng.choice(len(names), p=np.array(probabilities)))])


def check_arguments(role: str, seed: int, index: int, height: int, width: int, style: str | None = None) -> None:
    """Raise UsageError for arguments that :func:`render` does not accept."""
    if role not in ROLES:
        hint = did_you_mean(role, ROLES, "use for example --role source")
        raise UsageError(f"unknown role {role!r}; known roles: {', '.join(ROLES)}", hint)
    if style is not None and style not in STYLE_NAMES:
        raise UsageError(
            f"unknown style {style!r}; known styles: {', '.join(STYLE_NAMES)}",
            "omit the style to let the seed choose one",
        )
    if seed < 0 or index < 0:
        raise UsageError(f"seed {seed} and index {index} must not be negative", "use for example --seed 0")
    if height < 32 or width < 32:
        raise UsageError(f"size {width}x{height} is smaller than 32x32", "use for example --height 256 --width 512")
