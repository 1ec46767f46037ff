"""A CLIP tokenizer in which every word of a prompt is one token, for the embedded model and for dry runs."""

import itertools
import json
from pathlib import Path

from dgkit.labels import CLASSES

MAX_TOKENS = 40  # the longest style prompt, with all 19 classes, has 35
STYLE_WORDS = ("snowy", "rainy", "sunny", "foggy", "night")  # this order fixes the token ids
# Words that all prompts share: their embeddings are zero, so that they cannot hide the style word.
FRAME_WORDS = ("a", "city", "street", "scene", "with", "in", "weather", ",", ".")
START, END = "<|startoftext|>", "<|endoftext|>"


def vocabulary() -> tuple[str, ...]:
    """Return the words that are one token each, in a fixed order."""
    words = dict.fromkeys(word for name in CLASSES for word in name.split())
    return (*words, *STYLE_WORDS, *FRAME_WORDS)


def write_tokenizer(folder: Path, length: int = MAX_TOKENS) -> dict[str, int]:
    """Write a CLIP byte-pair tokenizer in which every word of :func:`vocabulary` is one token; return word -> id.

    Prompts have up to ``length`` tokens; other words split into letters. Raises ValueError if no order of merges makes
    every word one token.
    """
    folder.mkdir(parents=True, exist_ok=True)
    merges = _merges(vocabulary())
    letters = _byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    ids = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    for special in (START, END):
        ids[special] = len(ids)
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": length,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
        "do_lower_case": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return {word: ids[word + "</w>"] for word in vocabulary()}


def _byte_letters() -> list[str]:
    """Return the 256 printable letters for bytes that the tokenizers of CLIP and GPT-2 share."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(shifted))]


def _merges(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return merges, highest rank first, that make each word one token; words broken by others move to the front."""
    order = [word for word in words if len(word) > 1]
    for _ in range(len(order) ** 2):
        merges: dict[tuple[str, str], None] = {}
        for word in order:
            pieces = [*word[:-1], word[-1] + "</w>"]
            for i in range(1, len(pieces)):
                merges["".join(pieces[:i]), pieces[i]] = None
        ranks = {pair: rank for rank, pair in enumerate(merges)}
        broken = next((word for word in order if len(_split(word, ranks)) > 1), None)
        if broken is None:
            return list(merges)
        order.remove(broken)
        order.insert(0, broken)
    raise ValueError("no order of merges makes every word one token")


def _split(word: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    pieces = [*word[:-1], word[-1] + "</w>"]
    while len(pieces) > 1:
        pairs = [pair for pair in itertools.pairwise(pieces) if pair in ranks]
        if not pairs:
            break
        best = min(pairs, key=ranks.__getitem__)
        i = next(i for i, pair in enumerate(itertools.pairwise(pieces)) if pair == best)
        pieces[i : i + 2] = ["".join(best)]
    return pieces
