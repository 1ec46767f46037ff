"""Style mixes: the shares of the styles in a data set.

DGInStyle draws the style from an unseeded global generator and does not record it; here the mix is explicit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from dgkit.config import read_recipe
from dgkit.errors import InputError, UsageError, did_you_mean, shown
from dgkit.prompts import NO_STYLE, STYLE_NAMES, STYLES, check_style

_LARGEST = 1e100  # the sum of all weights stays finite


@dataclass(frozen=True)
class StyleMix:
    """Shares of the styles. ``weights`` maps styles (and "none") to numbers >= 0 with any sum > 0.

    Raises UsageError for an unknown style, a weight that is not a number from 0 to 1e100, or weights that sum to 0.
    """

    name: str
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        for style, weight in self.weights.items():
            check_style(style)
            number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
            if not number or not 0 <= weight <= _LARGEST:
                raise UsageError(
                    f"style mix {self.name}: the weight of {style} is {shown(weight)}; weights are numbers >= 0",
                    f"write for example '{style}: 0.5'",
                )
        if not sum(self.weights.values()) > 0:
            raise UsageError(
                f"style mix {self.name}: the weights sum to 0",
                f"give at least one of {', '.join(STYLE_NAMES)} a weight above 0",
            )
        object.__setattr__(self, "weights", MappingProxyType({s: float(w) for s, w in self.weights.items()}))

    def __reduce__(self) -> tuple[Any, ...]:
        return StyleMix, (self.name, dict(self.weights))

    @property
    def probabilities(self) -> np.ndarray:
        """Shares of :data:`~dgkit.prompts.STYLE_NAMES` in that order, float64 [6] that sum to 1."""
        shares = np.array([self.weights.get(style, 0.0) for style in STYLE_NAMES])
        return shares / shares.sum()


STYLE_MIXES = {
    mix.name: mix
    for mix in (
        # DGInStyle, gen_datasets.py: with probability 0.5 one of five words.
        StyleMix("official", {NO_STYLE: 0.5, **dict.fromkeys(STYLES, 0.1)}),
        # The published 7,000 images as their authors describe them: 3,000 adverse without night, 1,000 night,
        # 3,000 plain. Adverse is read as snow, rain and fog in equal parts.
        StyleMix("published", {NO_STYLE: 3, "snowy": 1, "rainy": 1, "foggy": 1, "night": 1}),
        StyleMix("uniform", dict.fromkeys(STYLES, 1)),
        *(StyleMix(style, {style: 1}) for style in STYLE_NAMES),
    )
}


EARLIER_NAMES = {"code": "official", "released": "published"}  # in dgkit 0.1


def load_style_mix(name_or_path: str | Path) -> StyleMix:
    """Return a mix of :data:`STYLE_MIXES`, or one read from a YAML file of ``style: weight`` lines.

    Names of earlier versions work. Raises UsageError for an unknown name or bad weights, InputError for a file that
    cannot be read.
    """
    text = EARLIER_NAMES.get(str(name_or_path), str(name_or_path))
    if text in STYLE_MIXES:
        return STYLE_MIXES[text]
    path = Path(text)
    if path.suffix.lower() not in (".yaml", ".yml") and not path.is_file():
        raise UsageError(
            f"unknown style mix {text!r}; known mixes: {', '.join(STYLE_MIXES)}, or a YAML file of weights",
            did_you_mean(text, STYLE_MIXES, "use --style-mix uniform, or write a file with lines such as 'snowy: 0.5'"),
        )
    content = read_recipe(path)
    if not content:
        raise InputError(f"the style mix {path} is empty", f"write lines such as '{STYLES[0]}: 0.5'")
    return StyleMix(path.stem, {str(style): weight for style, weight in content.items()})
