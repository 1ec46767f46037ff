"""Captions of training crops: dropped words, the style of a prompt, and text embeddings cached on disk."""

import hashlib
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dgkit.errors import InputError
from dgkit.files import atomic_write
from dgkit.prompts import STYLES, compose
from dgkit.styles import NO_STYLE

_STYLE = re.compile(rf", in ({'|'.join(STYLES)}) weather\.$")
_PUNCTUATION = re.compile(r"([,.])")
# Words around the class names, common to all style prompts.
_FRAME = {word.lower() for style in STYLES for word in _PUNCTUATION.sub(r" \1", compose("with", style)).split()}


def style_of(prompt: str) -> str:
    """Return the style word of a prompt written by ``dgkit.prompts.compose``, or "none"."""
    found = _STYLE.search(prompt)
    return found[1] if found else NO_STYLE


def drop_words(caption: str, rng: np.random.Generator) -> str:
    """Keep each class word with a probability drawn for this caption; frame and style words stay.

    Prompts name any number of classes, and a style must work with all of them.
    """
    probability = rng.random()
    words = _PUNCTUATION.sub(r" \1", caption).split()
    return " ".join(word for word in words if word.lower() in _FRAME or rng.random() < probability)


class TextCache:
    """Text embeddings in float16; each distinct caption is encoded once and kept in a folder.

    ``encode`` maps B captions to a float array [B, L, D], or flat [B, N]. It is called with one caption at a time,
    so that an embedding does not depend on the others in a batch. ``digest`` identifies the encoder (see
    ``latents.digest_network``); each encoder has its own folder. A caption is one file that is complete or absent, so
    processes may share the folder and be killed at any time; a file that does not match the SHA-256 at its end is
    encoded again. ``keep`` embeddings stay in memory.
    """

    def __init__(
        self, folder: Path, digest: str, encode: Callable[[Sequence[str]], np.ndarray], keep: int = 2048
    ) -> None:
        self.folder = Path(folder) / f"text-{digest[:16]}"
        self.encode, self.keep = encode, keep
        self._recent: dict[str, np.ndarray] = {}

    def __call__(self, captions: Sequence[str]) -> np.ndarray:
        """Return the embeddings in float16, otherwise as ``encode`` does.

        Raises :class:`OutputError` if the folder cannot be written.
        """
        return np.stack([self._one(text) for text in captions])

    def _one(self, text: str) -> np.ndarray:
        embedding = self._recent.pop(text, None)
        if embedding is None:
            embedding = self._read(text)
        if embedding is None:
            embedding = np.asarray(self.encode([text]))[0].astype(np.float16)
            if not np.isfinite(embedding).all():
                raise InputError(f"the text embedding of {text!r} is not finite", "train without cache_text")
            buffer = io.BytesIO()
            np.save(buffer, embedding)
            atomic_write(self._path(text), buffer.getvalue() + hashlib.sha256(buffer.getvalue()).digest())
        self._recent[text] = embedding
        if len(self._recent) > self.keep:
            del self._recent[next(iter(self._recent))]  # the least recently used one
        return embedding

    def _path(self, text: str) -> Path:
        name = hashlib.sha256(text.encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.npy"

    def _read(self, text: str) -> np.ndarray | None:
        """Return the embedding of a file, None if there is none or it is damaged."""
        try:
            data = self._path(text).read_bytes()
            stream = io.BytesIO(data)
            embedding = np.load(stream, allow_pickle=False)
        except (OSError, ValueError, EOFError, SyntaxError):
            return None
        end = stream.tell()
        # Files of earlier versions end with the array.
        if data[end:] not in (b"", hashlib.sha256(data[:end]).digest()):
            return None
        intact = embedding.dtype == np.float16 and embedding.ndim in (1, 2) and np.isfinite(embedding).all()
        return embedding if intact else None
