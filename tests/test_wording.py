"""Templates, class words and texts that a prompt can hold."""

from typing import Any

import pytest

from dgkit.errors import UsageError
from dgkit.wording import check_negative, check_template, parse_class_words


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("A street", "has no {style}"),
        ("A street with {classes}", "has no {style}"),
        ("{style} {weather}", r"holds '\{weather\}'; allowed in braces"),
        ("{style", r"holds '\{style'"),
        ("{style} {}", r"holds '\{\}'"),
        ("{style:>9}", r"holds '\{style:>9\}'"),
        ("{style}, {style}", "repeats"),
        ("{style}\nroad", r"unprintable character '\\n'"),
        ("{style}" + "x" * 1000, "has 1,007 characters; allowed: 1,000"),
        (5, "is 5, not a text"),
    ],
)
def test_templates_that_are_refused(template: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        check_template(template)
    assert error.value.hint


def test_class_words_are_typed_or_mapped() -> None:
    assert parse_class_words(["car=cars, vans", "pole=off", "bus="]) == {"car": "cars, vans", "pole": "", "bus": ""}
    assert parse_class_words({"car": "a = b", "pole": False}) == {"car": "a = b", "pole": ""}
    for wrong, words in (
        (["car"], "'car' is not CLASS=WORDS"),
        (["car=a", "car=b"], "two words"),
        ({"car": 3}, "not a text"),
    ):
        with pytest.raises(UsageError, match=words):
            parse_class_words(wrong)


def test_a_negative_prompt_is_one_printable_line() -> None:
    assert check_negative("") == "" and check_negative("cartoon, blurry") == "cartoon, blurry"
    with pytest.raises(UsageError, match=r"the negative prompt .* holds the unprintable character"):
        check_negative("a\x00b")
