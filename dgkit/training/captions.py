"""Captions of training crops: fewer words, the style in a prompt, and text embeddings kept on disk."""

import re

import numpy as np

from dgkit.data.prompts import NO_STYLE, STYLES, compose

_STYLE = re.compile(rf", in ({'|'.join(STYLES)}) weather\.$")
_MARKS = re.compile(r"([,.])")
# The words around the class names: every style prompt has them.
_FRAME = {word.lower() for style in STYLES for word in _MARKS.sub(r" \1", compose("with", style)).split()}


def style_of(prompt: str) -> str:
    """The style word of a prompt that ``dgkit.data.prompts.compose`` wrote, or "none"."""
    found = _STYLE.search(prompt)
    return found[1] if found else NO_STYLE


def thin(caption: str, rng: np.random.Generator) -> str:
    """Keep each class word with odds drawn anew for this caption; frame and style words stay.

    Prompts name any number of classes, and a style must work beside all of them.
    """
    odds = rng.random()
    words = _MARKS.sub(r" \1", caption).split()
    return " ".join(word for word in words if word.lower() in _FRAME or rng.random() < odds)
