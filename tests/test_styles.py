"""Styles as data: built-in sets, typed ones, and those of files."""

import math
from typing import Any

import pytest

from dgkit.errors import UsageError
from dgkit.styles import DRIVING, KNOWN_STYLES, PUBLISHED, Style, find_style, make_style, parse_styles


def test_the_built_in_sets() -> None:
    assert [style.name for style in PUBLISHED] == ["sunny", "snowy", "rainy", "foggy", "night"]
    assert len({style.clause for style in DRIVING}) == len({style.name for style in DRIVING}) == 20
    assert len(KNOWN_STYLES) == 26 and find_style("none").clause == ""


def test_styles_are_typed_as_names_or_clauses() -> None:
    assert parse_styles(["fog", "dusk=at dusk, a=b"]) == {
        "fog": {"clause": "in dense fog, low visibility"}, "dusk": {"clause": "at dusk, a=b"}
    }  # fmt: skip
    assert parse_styles("none") == {"none": {"clause": ""}}
    dusk = Style("dusk", "at dusk", 2, "day", 5)
    written = {"clause": "at dusk", "weight": 2.0, "negative_prompt": "day", "guidance_scale": 5}
    assert parse_styles(dusk) == {"dusk": written}
    assert make_style("dusk", parse_styles(dusk)["dusk"]) == dusk
    assert parse_styles(parse_styles([dusk])) == parse_styles([dusk]) and parse_styles({"snowy": 2}) == {
        "snowy": {"clause": "in snowy weather", "weight": 2.0}
    }


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["sunset"], "style 'sunset' has no clause, and is none of the known styles: sunny"),
        (["hail="], "style 'hail': the clause is empty"),
        (["=in hail"], "style name ''"),
        (["hail=in hail", "hail=in ice"], "style 'hail' is defined twice"),
        (["none=on a clear day"], "style 'none' is the prompt without a style"),
        (["hail=in\x1bhail"], "unprintable character"),
        ([5], "style '5' has no clause"),
        ({"hail": {"clause": "in hail", "wieght": 2}}, "unknown key 'wieght'; allowed: clause, weight"),
        ({"hail": {"clause": "in hail", "weight": math.inf}}, "style 'hail': weight inf"),
        ({"hail": {"clause": "in hail", "weight": True}}, "style 'hail': weight True"),
        ({"hail": {"clause": "in hail", "guidance_scale": 101}}, "guidance scale 101; allowed: 0 to 100"),
        ({"hail": {"clause": 3}}, "the clause is 3, not a text"),
        ({"hail": 2}, "unknown style 'hail'"),
    ],
)
def test_styles_that_are_refused(typed: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        parse_styles(typed)
    assert error.value.hint
