"""Label maps as text, the form in which page and server exchange them: ``HEIGHTxWIDTH:`` and the ids in base64.

Nothing is compressed, so that a short text cannot unpack to a large map.
"""

import base64
import binascii
import re

import numpy as np

from dgkit.data.labelmap import encode
from dgkit.errors import LabelError, shown

_FORM = re.compile(r"(\d{1,5})x(\d{1,5}):([A-Za-z0-9+/=]+)")


def pack_label(label: np.ndarray) -> str:
    """Return train ids, uint8 [H, W], as text."""
    return f"{label.shape[0]}x{label.shape[1]}:{base64.b64encode(label.tobytes()).decode()}"


def unpack_label(text: object) -> np.ndarray:
    """Return the train ids in ``text``, uint8 [H, W] of 0..18 and 255, read-only. Raises LabelError."""
    match = _FORM.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise LabelError("no label map was chosen", "pick, upload or draw one first")
    height, width = int(match[1]), int(match[2])
    try:
        data = base64.b64decode(match[3], validate=True)
    except binascii.Error as error:
        raise LabelError(f"the drawn label map is damaged: {error}", "pick a label map again") from error
    if not data or len(data) != height * width:
        size = shown(f"{height}x{width}")
        raise LabelError(f"the drawn label map has {len(data)} pixels, not {size}", "pick a label map again")
    return encode(np.frombuffer(data, np.uint8).reshape(height, width), source="the drawn label map")
