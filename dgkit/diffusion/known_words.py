"""Which words a model can know: one with a vocabulary of words has never seen any others."""

import re
from typing import Any

WORDS_AT_MOST = 2000  # entries of a vocabulary of words; CLIP's has 49,408 parts of words, which spell any word


def unknown_words(tokenizer: Any, text: str) -> tuple[str, ...]:
    """Return the distinct words of ``text`` that a tokenizer of words splits into letters, in order.

    Empty for the tokenizers of models that were trained on captions of all kinds.
    """
    size = getattr(tokenizer, "vocab_size", None)
    if size is None or size > WORDS_AT_MOST:
        return ()
    empty = len(tokenizer("")["input_ids"])
    words = dict.fromkeys(re.findall(r"[^\W_]+", text.lower()))
    return tuple(word for word in words if len(tokenizer(word)["input_ids"]) - empty > 1)
