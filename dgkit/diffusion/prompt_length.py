"""Shortening a prompt to what a text encoder takes, without losing its style."""

import re
from collections.abc import Callable

from dgkit.labels import CLASSES

_STYLE = re.compile(r"^(?P<head>.*?)(?P<style>, in [^,]*\.?)?$", re.DOTALL)


def fit_words(prompt: str, fits: Callable[[str], bool]) -> tuple[str, bool]:
    """``prompt`` with as many of its last class names (or words) dropped as ``fits`` asks for, and whether any were.

    A closing clause ", in <style> weather." is kept. "traffic light" goes as one name.
    """
    if fits(prompt):
        return prompt, False
    match = _STYLE.match(prompt)
    head, style = (match["head"], match["style"] or "") if match else (prompt, "")
    while head:
        head = _drop_last(head)
        if fits(head + style):
            break
    return (head + style).removeprefix(", "), True


def _drop_last(text: str) -> str:
    text = text.rstrip()
    for name in CLASSES:
        if " " in name and text.endswith(name):
            return text[: -len(name)].rstrip()
    return text.rpartition(" ")[0].rstrip()
