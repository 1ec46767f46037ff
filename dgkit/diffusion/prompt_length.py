"""Shortening a prompt to the length that a text encoder supports, without losing its style."""

import re
from collections.abc import Callable

from dgkit.labels import CLASSES

_STYLE = re.compile(r"^(?P<head>.*?)(?P<style>, in [^,]*\.?)?$", re.DOTALL)


def fit_words(prompt: str, fits: Callable[[str], bool]) -> tuple[str, bool]:
    """Drop the last class names (or words) of ``prompt`` until ``fits``; return it and whether any were dropped.

    A final clause ", in <style> weather." is kept. "traffic light" is dropped as one name.
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
