"""Styles: weather, light or place in words; the five published ones, a set of driving conditions, and your own."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dgkit.errors import UsageError, did_you_mean, one_line, shown
from dgkit.wording import check_text

NO_STYLE = "none"  # ordinary daylight: no style in the prompt
LARGEST_WEIGHT = 1e100  # the sum of all weights stays finite
MAX_GUIDANCE = 100.0
EXAMPLE = "define it: --style dusk='at dusk, long shadows'"
_NAME = re.compile(r"\w[\w .-]{0,39}")


@dataclass(frozen=True)
class Style:
    """A style of the prompts. ``clause`` is its text in the prompt, such as "at dusk, long shadows".

    ``weight`` is its share in a mix relative to the other styles. ``negative_prompt`` and ``guidance_scale`` (0 to 100)
    replace those of the run; None leaves them. Raises UsageError for a value that is not allowed.
    """

    name: str
    clause: str
    weight: float = 1.0
    negative_prompt: str | None = None
    guidance_scale: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise UsageError(
                f"style name {shown(self.name, 60)}; allowed: 1 to 40 letters, digits, blanks and the characters _.-",
                EXAMPLE,
            )
        what = f"style {self.name!r}"
        if self.name != NO_STYLE:
            check_text(self.clause, f"{what}: the clause")
        elif self.clause:
            raise UsageError(f"{what} is the prompt without a style and has no clause", "choose another name")
        if not is_number(self.weight, LARGEST_WEIGHT):
            raise UsageError(
                f"{what}: weight {shown(self.weight)}; weights are numbers >= 0", "write for example weight: 2"
            )
        if self.negative_prompt is not None:
            check_text(self.negative_prompt, f"{what}: the negative prompt", empty=True)
        check_guidance(self.guidance_scale, what)

    def to_json(self) -> dict[str, Any]:
        """Return the style as a mapping for a file, without its name and without values that are the default."""
        values = {"clause": self.clause, "weight": float(self.weight), "negative_prompt": self.negative_prompt,
                  "guidance_scale": self.guidance_scale}  # fmt: skip
        return {key: value for key, value in values.items() if value is not None and (key, value) != ("weight", 1.0)}


def is_number(value: Any, most: float) -> bool:
    """Return whether ``value`` is a finite number from 0 to ``most``, and not a truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most


def check_guidance(scale: float | None, what: str) -> None:
    """Raise UsageError unless a guidance scale is None or a number from 0 to 100."""
    if scale is not None and not is_number(scale, MAX_GUIDANCE):
        raise UsageError(
            f"{what}: guidance scale {shown(scale)}; allowed: 0 to {MAX_GUIDANCE:g}",
            "write for example guidance_scale: 5",
        )


# DGInStyle, gen_datasets.py: the words of its prompts.
PUBLISHED = tuple(Style(word, f"in {word} weather") for word in ("sunny", "snowy", "rainy", "foggy", "night"))
# Conditions of the photographs in ACDC, BDD100K and Mapillary Vistas: their attributes of weather, time and place.
DRIVING = (
    Style("clear", "on a clear day at noon, hard short shadows"),
    Style("partly-cloudy", "under a partly cloudy sky"),
    Style("overcast", "under an overcast sky, flat grey light"),
    Style("dawn", "at dawn, pale sky and soft light"),
    Style("dusk", "at dusk, deep blue sky and first street lamps"),
    Style("low-sun", "in low evening sun, long shadows"),
    Style("glare", "against the sun, strong glare on the road"),
    Style("light-rain", "in light rain, damp road"),
    Style("heavy-rain", "in heavy rain, spray and puddles on the road"),
    Style("wet-road", "after the rain, wet road with reflections"),
    Style("light-snow", "in light snowfall, snow on the roadside"),
    Style("heavy-snow", "in heavy snowfall, road covered with snow"),
    Style("slush", "with melting snow and slush on the road, grey sky"),
    Style("haze", "in morning haze, pale distance"),
    Style("fog", "in dense fog, low visibility"),
    Style("night-lit", "at night, lit by street lamps"),
    Style("night-unlit", "at night without street lamps, lit by headlights only"),
    Style("night-rain", "on a rainy night, lights reflected by the wet road"),
    Style("autumn", "in autumn, yellow trees and fallen leaves"),
    Style("tunnel", "inside a road tunnel, artificial light"),
)
STYLE_SETS = {"published": PUBLISHED, "driving": DRIVING}
KNOWN_STYLES = {style.name: style for style in (*PUBLISHED, Style(NO_STYLE, ""), *DRIVING)}


def find_style(name: str, own: Mapping[str, Style] | None = None) -> Style:
    """Return the style called ``name`` among ``own`` ones and :data:`KNOWN_STYLES`. Raises UsageError."""
    found = (own or {}).get(name) or KNOWN_STYLES.get(name)
    if found is None:
        known = list(dict.fromkeys([*KNOWN_STYLES, *(own or ())]))
        define = f"define it: --style {one_line(str(name), 40)}='in strong wind'"
        raise UsageError(
            f"unknown style {shown(name)}; known styles: {', '.join(known)}", did_you_mean(name, known, define)
        )
    return found


def make_style(name: str, value: Any) -> Style:
    """Return the style of an entry of a file: a clause, a mapping of the fields, or the weight of a known style.

    A known style keeps its clause if the mapping states none. Raises UsageError for anything else.
    """
    if isinstance(value, Style):
        return replace(value, name=name)
    if isinstance(value, str):
        return Style(name, value)
    if not isinstance(value, Mapping):
        return replace(find_style(name), weight=value)
    fields = ("clause", "weight", "negative_prompt", "guidance_scale")
    unknown = [key for key in value if key not in fields]
    if unknown:
        raise UsageError(
            f"style {shown(name)}: unknown key {shown(unknown[0])}; allowed: {', '.join(fields)}",
            did_you_mean(str(unknown[0]), fields, "remove it"),
        )
    if "clause" not in value and name not in KNOWN_STYLES:
        raise UsageError(f"style {shown(name)} has no clause", f"write {name}: {{clause: 'at dusk, long shadows'}}")
    return Style(name, **{"clause": KNOWN_STYLES[name].clause if name in KNOWN_STYLES else "", **value})


def parse_styles(value: Any) -> dict[str, dict[str, Any]]:
    """Return styles by name, each as :meth:`Style.to_json`.

    ``value`` is a mapping of names to entries as for :func:`make_style`, or one or several of: a style, the name of a
    known style, ``"NAME=CLAUSE"``. Raises UsageError for anything else, and for a name that comes twice.
    """
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return {str(name): make_style(str(name), entry).to_json() for name, entry in value.items()}
    found: dict[str, dict[str, Any]] = {}
    for item in [value] if isinstance(value, str | Style) else value:
        style = item if isinstance(item, Style) else _typed(item)
        if style.name in found:
            raise UsageError(f"style {style.name!r} is defined twice", "drop one of the two, or rename it")
        found[style.name] = style.to_json()
    return found


def parse_shares(entries: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the shares of a mix by style: a weight, which is not checked, or a style as :meth:`Style.to_json`.

    A text is a clause; for a known style only if it has several words, so that "0,5" is no clause. Raises UsageError
    for a style that is not allowed.
    """

    def share(name: str, value: Any) -> Any:
        clause = isinstance(value, str) and (name not in KNOWN_STYLES or len(value.split()) > 1)
        is_style = clause or isinstance(value, Style | Mapping)
        return make_style(name, value).to_json() if is_style else value

    return {str(name): share(str(name), value) for name, value in entries.items()}


def _typed(text: Any) -> Style:
    """Return the style that is typed as ``NAME`` or ``NAME=CLAUSE``."""
    name, equals, clause = str(text).partition("=")
    name = name.strip()
    if equals:
        return Style(name, clause.strip())
    if name not in KNOWN_STYLES:
        raise UsageError(
            f"style {shown(name)} has no clause, and is none of the known styles: {', '.join(KNOWN_STYLES)}",
            did_you_mean(name, KNOWN_STYLES, f"write --style {one_line(name, 40)}='at dusk, long shadows'"),
        )
    return KNOWN_STYLES[name]
