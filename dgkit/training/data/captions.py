"""Captions of training crops: fewer words, the style in a prompt, and text embeddings kept on disk."""

import hashlib
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dgkit.files import atomic_write
from dgkit.prompts import NO_STYLE, STYLES, compose

_STYLE = re.compile(rf", in ({'|'.join(STYLES)}) weather\.$")
_MARKS = re.compile(r"([,.])")
# The words around the class names: every style prompt has them.
_FRAME = {word.lower() for style in STYLES for word in _MARKS.sub(r" \1", compose("with", style)).split()}


def style_of(prompt: str) -> str:
    """The style word of a prompt that ``dgkit.prompts.compose`` wrote, or "none"."""
    found = _STYLE.search(prompt)
    return found[1] if found else NO_STYLE


def thin(caption: str, rng: np.random.Generator) -> str:
    """Keep each class word with odds drawn anew for this caption; frame and style words stay.

    Prompts name any number of classes, and a style must work beside all of them.
    """
    odds = rng.random()
    words = _MARKS.sub(r" \1", caption).split()
    return " ".join(word for word in words if word.lower() in _FRAME or rng.random() < odds)


class TextCache:
    """Text embeddings, each distinct caption encoded once and kept in a folder, float16.

    ``encode`` maps B captions to a float array [B, L, D]; it is called with one caption that is not there yet, so that
    an embedding never depends on its neighbours. ``digest`` names the encoder (see ``latents.digest_network``): another
    one has its own folder. Each caption is one file that is complete or absent, so any number of processes may share
    the folder and be killed at any time; a damaged file is encoded again. ``keep`` embeddings stay in memory.
    """

    def __init__(
        self, folder: Path, digest: str, encode: Callable[[Sequence[str]], np.ndarray], keep: int = 2048
    ) -> None:
        self.folder = Path(folder) / f"text-{digest[:16]}"
        self.encode, self.keep = encode, keep
        self._recent: dict[str, np.ndarray] = {}

    def __call__(self, captions: Sequence[str]) -> np.ndarray:
        """float16 [B, L, D]. Raises :class:`OutputError` if the folder cannot be written."""
        return np.stack([self._one(text) for text in captions])

    def _one(self, text: str) -> np.ndarray:
        embedding = self._recent.pop(text, None)
        if embedding is None:
            embedding = self._read(text)
        if embedding is None:
            embedding = np.asarray(self.encode([text]))[0].astype(np.float16)
            buffer = io.BytesIO()
            np.save(buffer, embedding)
            atomic_write(self._path(text), buffer.getvalue())
        self._recent[text] = embedding
        if len(self._recent) > self.keep:
            del self._recent[next(iter(self._recent))]  # the one not asked for the longest
        return embedding

    def _path(self, text: str) -> Path:
        name = hashlib.sha256(text.encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.npy"

    def _read(self, text: str) -> np.ndarray | None:
        try:
            return np.load(self._path(text), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
