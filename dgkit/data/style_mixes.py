"""Style mixes: the shares of the styles in a data set.

DGInStyle draws the style from an unseeded global generator and does not record it; here the mix is explicit.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from dgkit.config import read_recipe
from dgkit.errors import InputError, UsageError, did_you_mean, one_line, shown
from dgkit.prompts import STYLE_NAMES, STYLES
from dgkit.styles import (
    DRIVING,
    KNOWN_STYLES,
    LARGEST_WEIGHT,
    NO_STYLE,
    Style,
    find_style,
    is_number,
    make_style,
    parse_shares,
)


@dataclass(frozen=True)
class StyleMix:
    """Shares of styles. ``weights`` maps styles (and "none") to numbers >= 0 with any sum > 0.

    ``own`` are styles that dgkit does not know, or words otherwise. Raises UsageError for an unknown style, a weight
    that is not a number from 0 to 1e100, or weights that sum to 0.
    """

    name: str
    weights: Mapping[str, float]
    own: Mapping[str, Style] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for style, weight in self.weights.items():
            find_style(style, self.own)
            if not is_number(weight, LARGEST_WEIGHT):
                raise UsageError(
                    f"style mix {self.name}: the weight of {style} is {shown(weight)}; weights are numbers >= 0",
                    f"write for example '{style}: 0.5'",
                )
        if not sum(self.weights.values()) > 0:
            raise UsageError(
                f"style mix {self.name}: the weights sum to 0",
                f"give at least one of {', '.join(self.weights or STYLE_NAMES)} a weight above 0",
            )
        object.__setattr__(self, "weights", MappingProxyType({s: float(w) for s, w in self.weights.items()}))

    def __reduce__(self) -> tuple[Any, ...]:
        return StyleMix, (self.name, dict(self.weights), dict(self.own))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the styles: the published ones, and then others by name, however the mix was written."""
        return (*STYLE_NAMES, *sorted(set(self.weights) - set(STYLE_NAMES)))

    @property
    def used(self) -> tuple[str, ...]:
        """Names of the styles with a weight above 0, in the order of :attr:`names`."""
        return tuple(name for name in self.names if self.weights.get(name))

    @property
    def probabilities(self) -> np.ndarray:
        """Shares of :attr:`names` in that order, float64 that sum to 1."""
        shares = np.array([self.weights.get(style, 0.0) for style in self.names])
        return shares / shares.sum()

    def style(self, name: str) -> Style:
        """Return one of the styles, or another that is known. Raises UsageError."""
        return find_style(name, self.own)


STYLE_MIXES = {
    mix.name: mix
    for mix in (
        # DGInStyle, gen_datasets.py: with probability 0.5 one of five words.
        StyleMix("official", {NO_STYLE: 0.5, **dict.fromkeys(STYLES, 0.1)}),
        # The published 7,000 images as their authors describe them: 3,000 adverse without night, 1,000 night,
        # 3,000 plain. Adverse is read as snow, rain and fog in equal parts.
        StyleMix("published", {NO_STYLE: 3, "snowy": 1, "rainy": 1, "foggy": 1, "night": 1}),
        StyleMix("uniform", dict.fromkeys(STYLES, 1)),
        StyleMix("driving", {style.name: style.weight for style in DRIVING}),
        *(StyleMix(style, {style: 1}) for style in STYLE_NAMES),
    )
}


EARLIER_NAMES = {"code": "official", "released": "published"}  # in dgkit 0.1


def load_style_mix(name_or_path: str | Path, own: Mapping[str, Style] | None = None) -> StyleMix:
    """Return a mix of :data:`STYLE_MIXES`, of one known or ``own`` style, or one read from a YAML file.

    Names of earlier versions work. Raises UsageError for an unknown name or a bad entry, InputError for a file that
    cannot be read.
    """
    own = own or {}
    shares = read_shares(name_or_path, own)
    if not isinstance(shares, str):
        return make_mix(Path(name_or_path).stem, shares, own)
    if shares in STYLE_MIXES and not own:
        return STYLE_MIXES[shares]
    return make_mix(shares, STYLE_MIXES[shares].weights if shares in STYLE_MIXES else {shares: 1}, own)


def read_shares(name_or_path: str | Path, own: Collection[str] = ()) -> str | dict[str, Any]:
    """Return the present name of a mix, the name of a known or ``own`` style, or what a YAML file holds.

    The latter as :func:`~dgkit.styles.parse_shares`. Raises as :func:`load_style_mix`.
    """
    text = EARLIER_NAMES.get(str(name_or_path), str(name_or_path))
    known = dict.fromkeys([*STYLE_MIXES, *KNOWN_STYLES, *own])
    if text in known:
        return text
    path = Path(text)
    if path.suffix.lower() not in (".yaml", ".yml") and not path.is_file():
        raise UsageError(
            f"unknown style mix {text!r}; known mixes: {', '.join(known)}, or a YAML file of styles",
            did_you_mean(text, known, f"define a style: --style {one_line(text, 40)}='at dusk, long shadows'"),
        )
    content = read_recipe(path)
    if not content:
        raise InputError(f"the style mix {path} is empty", f"write lines such as '{STYLES[0]}: 0.5'")
    return parse_shares(content)


def make_mix(name: str, shares: Mapping[str, Any], own: Mapping[str, Style]) -> StyleMix:
    """Return the mix of ``shares``, weights or whole styles by name, joined by the ``own`` styles that it lacks.

    Raises UsageError as :class:`StyleMix`, and for a style that both define.
    """
    defined = {style: make_style(style, entry) for style, entry in shares.items() if isinstance(entry, Mapping)}
    twice = sorted(defined.keys() & own.keys())
    if twice:
        raise UsageError(
            f"style {twice[0]!r} is defined twice, in the mix {name} and by --style", "drop one of the two"
        )
    weights = {style: defined[style].weight if style in defined else weight for style, weight in shares.items()}
    return StyleMix(name, {style: one.weight for style, one in own.items()} | weights, {**defined, **own})
