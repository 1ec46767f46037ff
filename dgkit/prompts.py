"""Prompts: the classes of a label map as text, and the style (weather or light) of the scene.

The wording is that of DGInStyle (gen_datasets.py, demo.py).
"""

from collections.abc import Sequence

import numpy as np

from dgkit.errors import UsageError, did_you_mean
from dgkit.labels import CLASSES

STYLES = ("sunny", "snowy", "rainy", "foggy", "night")
NO_STYLE = "none"  # ordinary daylight: no style in the prompt
STYLE_NAMES = (*STYLES, NO_STYLE)


def check_style(style: str) -> None:
    """Raise UsageError for a name that is not in :data:`STYLE_NAMES`."""
    if style not in STYLE_NAMES:
        hint = did_you_mean(style, STYLE_NAMES, "use one of these styles")
        raise UsageError(f"unknown style {style!r}; known styles: {', '.join(STYLE_NAMES)}", hint)


def caption(label: np.ndarray, names: Sequence[str] = CLASSES) -> str:
    """Return the names of the classes present, in ascending train id and separated by single spaces.

    ``label`` is an integer array of train ids [H, W] of the classes ``names``; ignored pixels are skipped, so the
    result may be empty.
    Source: DGInStyle, controlnet/dataset_GTA.py.
    """
    counts = np.bincount(np.asarray(label).ravel(), minlength=len(names))[: len(names)]
    return " ".join(names[i] for i in np.flatnonzero(counts).tolist())


def compose(caption: str, style: str) -> str:
    """Return the prompt of a caption in a style of :data:`STYLES`, or the caption itself for "none".

    Source: DGInStyle, gen_datasets.py, which writes the prefix only when a style is drawn. Raises UsageError for an
    unknown style.
    """
    check_style(style)
    if style == NO_STYLE:
        return caption
    scene = f"A city street scene with {caption}" if caption else "A city street scene"
    return f"{scene}, in {style} weather."
