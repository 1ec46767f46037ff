"""The wording of prompts: the template, words for classes, and which texts can be part of a prompt."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from dgkit.errors import UsageError, one_line, shown

TEMPLATE = "A city street scene with {classes}, {style}."  # DGInStyle, gen_datasets.py
PLACE = re.compile(r"\{(classes|style)\}")
OFF = "off"  # word of a class that prompts do not name
MAX_TEXT = 1000  # characters of a clause, a template or a negative prompt
_CLASS_WORD = "write for example --class-word car='cars and vans'"


def check_text(text: Any, what: str, *, empty: bool = False) -> None:
    """Raise UsageError unless ``text`` can be part of a prompt: one printable line of at most 1000 characters.

    ``empty`` also accepts an empty text.
    """
    if not isinstance(text, str):
        raise UsageError(f"{what} is {shown(text)}, not a text", "put it in quotation marks")
    if not text.strip() and not empty:
        raise UsageError(f"{what} is empty", "write a few words, or leave it out")
    unprintable = next((character for character in text if not character.isprintable()), None)
    if unprintable is not None:
        raise UsageError(
            f"{what} {shown(text, 80)} holds the unprintable character {unprintable!a}",
            "write it on one line of printable characters",
        )
    if len(text) > MAX_TEXT:
        raise UsageError(f"{what} has {len(text):,} characters; allowed: {MAX_TEXT:,}", "shorten it")


def check_template(template: str) -> str:
    """Return a template that holds ``{style}`` once, ``{classes}`` at most once, and no other braces.

    Raises UsageError for any other.
    """
    check_text(template, "the prompt template", empty=True)
    hint = f"write for example --prompt-template {TEMPLATE!r}"
    places, rest = PLACE.findall(template), PLACE.sub("", template)
    other = re.search(r"\{[^{}]*\}?|\}", rest)
    if other is not None:
        raise UsageError(
            f"the prompt template holds {one_line(other[0], 60)!r}; allowed in braces: {{style}} and {{classes}}", hint
        )
    if "style" not in places:
        raise UsageError(f"the prompt template {one_line(template, 100)!r} has no {{style}}", hint)
    if len(set(places)) < len(places):
        raise UsageError("the prompt template repeats {style} or {classes}; allowed: each once", hint)
    return template


def parse_class_words(value: Any) -> dict[str, str]:
    """Return the words of classes; "" for a class that is off.

    ``value`` is a mapping, in which ``off`` or false is off, or one or several ``"CLASS=WORDS"``. Raises UsageError for
    anything else, and for a class that comes twice.
    """
    if isinstance(value, Mapping):
        return {str(name): _word(str(name), words) for name, words in value.items()}
    found: dict[str, str] = {}
    items: Sequence[Any] = [value] if isinstance(value, str) else value if isinstance(value, Sequence) else ()
    for item in items:
        name, equals, words = str(item).partition("=")
        if not equals:
            raise UsageError(f"class word {shown(item)} is not CLASS=WORDS", _CLASS_WORD)
        if name.strip() in found:
            raise UsageError(f"the class {name.strip()!r} has two words", "drop one --class-word of the two")
        found[name.strip()] = _word(name.strip(), words.strip())
    return found


def _word(name: str, words: Any) -> str:
    if words is False or words == OFF:  # YAML reads off as false
        return ""
    check_text(words, f"the word for the class {shown(name)}", empty=True)
    return str(words).strip()


def check_negative(prompt: str) -> str:
    """Return a negative prompt, which may be empty. Raises UsageError."""
    check_text(prompt, "the negative prompt", empty=True)
    return prompt
