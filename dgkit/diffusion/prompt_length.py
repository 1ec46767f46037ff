"""Shortening a prompt to the length that a text encoder supports, without losing its style."""

import re
from collections.abc import Callable, Sequence

from dgkit.labels import CLASSES

_STYLE = re.compile(r"^(?P<head>.*?)(?P<style>, in [^,]*\.?)?$", re.DOTALL)


def fit_words(
    prompt: str, fits: Callable[[str], bool], names: Sequence[str] = (), known: Sequence[str] = CLASSES
) -> tuple[str, bool]:
    """Drop the last class names (or words) of ``prompt`` until ``fits``; return it and whether any were dropped.

    What follows the list of ``names``, joined by blanks, is kept; without names, a final clause ", in <style>
    weather.". Of the names, or without them the ``known`` ones, "traffic light" is dropped as one.
    """
    if fits(prompt):
        return prompt, False
    listed = " ".join(names)
    end = prompt.rfind(listed) + len(listed) if listed in prompt else -1
    match = None if names and end >= 0 else _STYLE.match(prompt)
    head, style = (match["head"], match["style"] or "") if match else (prompt[:end], prompt[end:])
    while head:
        head = _drop_last(head, names or known)
        if fits(head + style):
            break
    return (head + style).removeprefix(", "), True


def _drop_last(text: str, names: Sequence[str]) -> str:
    text = text.rstrip()
    for name in names:
        if " " in name and text.endswith(name):
            return text[: -len(name)].rstrip()
    return text.rpartition(" ")[0].rstrip()
