"""Prompts: the classes of a crop as text, and the weather or light it is asked for.

The wording is that of DGInStyle (gen_datasets.py, demo.py). There the style is drawn from an unseeded global generator
and never recorded; here the mix is explicit and the generator is passed in.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from dgkit.config import read_recipe
from dgkit.errors import InputError, UsageError
from dgkit.labels import CLASSES, NUM_CLASSES

STYLES = ("sunny", "snowy", "rainy", "foggy", "night")
NO_STYLE = "none"
_CHOICES = (*STYLES, NO_STYLE)


def _check_style(style: str) -> None:
    if style not in _CHOICES:
        raise UsageError(f"unknown style {style!r}, allowed: {', '.join(_CHOICES)}", "use one of the allowed styles")


def caption(label: np.ndarray) -> str:
    """Names of the classes present, ascending train id, joined by single blanks; ignore is skipped.

    ``label`` is an integer array of train ids [H, W]; the result is empty if every pixel is ignored.
    Source: DGInStyle, controlnet/dataset_GTA.py.
    """
    counts = np.bincount(np.asarray(label).ravel(), minlength=NUM_CLASSES)[:NUM_CLASSES]
    return " ".join(CLASSES[i] for i in np.flatnonzero(counts))


def compose(caption: str, style: str) -> str:
    """Prompt of a caption in a style of :data:`STYLES`, or the bare caption for ``"none"``.

    Source: DGInStyle, gen_datasets.py (the prefix is written only when a style is drawn). Raises :class:`UsageError`
    for an unknown style.
    """
    _check_style(style)
    if style == NO_STYLE:
        return caption
    scene = f"A city street scene with {caption}" if caption else "A city street scene"
    return f"{scene}, in {style} weather."


@dataclass(frozen=True)
class StyleMix:
    """How often each style is asked for. ``weights`` maps styles (and ``"none"``) to shares >= 0 of any sum > 0.

    Raises :class:`UsageError` for an unknown style, a weight that is no finite number >= 0, or weights that sum to 0.
    """

    name: str
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        for style, weight in self.weights.items():
            _check_style(style)
            number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
            if not number or not math.isfinite(weight) or weight < 0:
                raise UsageError(
                    f"style mix {self.name}: the weight of {style} is {weight!r}, allowed are numbers >= 0",
                    f"write for example '{style}: 0.5'",
                )
        if not sum(self.weights.values()) > 0:
            raise UsageError(
                f"style mix {self.name}: the weights sum to 0",
                f"give at least one of {', '.join(_CHOICES)} a weight above 0",
            )
        object.__setattr__(self, "weights", MappingProxyType({s: float(w) for s, w in self.weights.items()}))

    def __reduce__(self) -> tuple[Any, ...]:
        return StyleMix, (self.name, dict(self.weights))

    @property
    def probabilities(self) -> np.ndarray:
        """float64 [6]: the shares of :data:`STYLES` and "none", in that order, summing to 1."""
        shares = np.array([self.weights.get(style, 0.0) for style in _CHOICES])
        return shares / shares.sum()


STYLE_MIXES = {
    mix.name: mix
    for mix in (
        # DGInStyle, gen_datasets.py: with probability 0.5 one of five words.
        StyleMix("code", {NO_STYLE: 0.5, **dict.fromkeys(STYLES, 0.1)}),
        # The published 7,000 images as their authors describe them: 3,000 adverse without night, 1,000 night,
        # 3,000 plain. Adverse is read as snow, rain and fog in equal parts.
        StyleMix("released", {NO_STYLE: 3, "snowy": 1, "rainy": 1, "foggy": 1, "night": 1}),
        StyleMix("uniform", dict.fromkeys(STYLES, 1)),
        *(StyleMix(style, {style: 1}) for style in _CHOICES),
    )
}


def load_style_mix(name_or_path: str | Path) -> StyleMix:
    """A mix by name (see :data:`STYLE_MIXES`) or from a YAML file of ``style: weight`` lines.

    Raises :class:`UsageError` for an unknown name or bad weights, :class:`InputError` for a file that cannot be read.
    """
    text = str(name_or_path)
    if text in STYLE_MIXES:
        return STYLE_MIXES[text]
    path = Path(text)
    if path.suffix.lower() not in (".yaml", ".yml") and not path.is_file():
        raise UsageError(
            f"unknown style mix {text!r}, allowed: {', '.join(STYLE_MIXES)}, or a YAML file of weights",
            "use --style-mix uniform, or write a file with lines such as 'snowy: 0.5'",
        )
    content = read_recipe(path)
    if not content:
        raise InputError(f"the style mix {path} is empty", f"write lines such as '{STYLES[0]}: 0.5'")
    return StyleMix(path.stem, {str(style): weight for style, weight in content.items()})


def draw_style(mix: StyleMix, rng: np.random.Generator) -> str:
    """One of :data:`STYLES` or ``"none"``, by the weights of ``mix``; takes exactly one number from ``rng``."""
    edges = np.cumsum(mix.probabilities)
    # The last edge may round below 1, and a style of weight 0 must never be reached through it.
    last = int(np.flatnonzero(mix.probabilities)[-1])
    return _CHOICES[min(int(np.searchsorted(edges, rng.random(), side="right")), last)]
