"""Prompts: the classes of a label map as text, and the style (weather or light) of the scene.

The wording is that of DGInStyle (gen_datasets.py, demo.py), unless a run states its own.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dgkit.errors import UsageError, did_you_mean, shown
from dgkit.labels import CLASSES
from dgkit.styles import NO_STYLE, PUBLISHED, Style, find_style
from dgkit.taxonomies import CITYSCAPES19, Taxonomy
from dgkit.wording import PLACE, TEMPLATE, check_template

STYLES = tuple(style.name for style in PUBLISHED)
STYLE_NAMES = (*STYLES, NO_STYLE)
# What an empty list of classes, or no style, takes with it.
_CLASSES = re.compile(r"\s*(\bwith\s+)?\{classes\}")
_STYLE = re.compile(r"[\s,;:]*\{style\}")


@dataclass(frozen=True)
class Prompt:
    """A prompt. ``names`` are the names of classes in it, in order: the part that may be shortened."""

    text: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wording:
    """How prompts are worded. ``template`` holds ``{style}`` and, if classes are named, ``{classes}``, each once.

    ``words`` replaces names of classes; an empty word leaves the class out. ``limit`` is the maximum number of classes
    that a prompt names, those with the largest area; None: all. Raises UsageError for a class that ``taxonomy`` lacks,
    and as :func:`check_template`.
    """

    template: str = TEMPLATE
    words: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    taxonomy: Taxonomy = CITYSCAPES19

    def __post_init__(self) -> None:
        check_template(self.template)
        known = self.taxonomy.names
        for name in self.words:
            if name not in known:
                raise UsageError(
                    f"class word for {shown(name)}: no such class; known: {', '.join(known)}",
                    did_you_mean(name, known, "use for example --class-word car='cars and vans'"),
                )

    def names(self, label: np.ndarray) -> tuple[str, ...]:
        """Return the words for the classes in integer train ids [H, W], in ascending train id."""
        names = zip(self.taxonomy.names, self.taxonomy.prompt_names, strict=True)
        words = [self.words.get(name, usual) for name, usual in names]
        counts = _class_counts(label, len(words))
        named = [i for i in np.flatnonzero(counts).tolist() if words[i]]
        if self.limit is not None:
            named = sorted(sorted(named, key=lambda i: -counts[i])[: self.limit])
        return tuple(words[i] for i in named)

    def prompt(self, label: np.ndarray, style: Style) -> Prompt:
        """Return the prompt for a label map, integer train ids [H, W], in a style."""
        names = self.names(label)
        return Prompt(compose(" ".join(names), style, self.template), names if "{classes}" in self.template else ())


def _class_counts(label: np.ndarray, classes: int) -> np.ndarray:
    """Return the number of pixels of each class, int64 [classes], in integer train ids [H, W]; others are ignored."""
    return np.bincount(np.asarray(label).ravel(), minlength=classes)[:classes]


def caption(label: np.ndarray, names: Sequence[str] = CLASSES) -> str:
    """Return the names of the classes present, in ascending train id and separated by single spaces.

    ``label`` is an integer array of train ids [H, W] of the classes ``names``; ignored pixels are skipped, so the
    result may be empty.
    Source: DGInStyle, controlnet/dataset_GTA.py.
    """
    return " ".join(names[i] for i in np.flatnonzero(_class_counts(label, len(names))).tolist())


def compose(caption: str, style: str | Style, template: str = TEMPLATE) -> str:
    """Return the prompt of a caption in a style; in the published template, the caption itself for "none".

    Source: DGInStyle, gen_datasets.py, which writes the prefix only when a style is drawn. In other templates "none"
    leaves out ``{style}`` with the comma before it, and an empty caption leaves out ``{classes}`` with the "with"
    before it. Raises UsageError for an unknown style.
    """
    style = find_style(style) if isinstance(style, str) else style
    if not style.clause and template == TEMPLATE:
        return caption
    template = template if caption else _CLASSES.sub("", template)
    template = template if style.clause else _STYLE.sub("", template)
    parts = {"classes": caption, "style": style.clause}
    return PLACE.sub(lambda place: parts[place[1]], template).strip(" ,;:")
