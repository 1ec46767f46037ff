"""The tokenizer of a model folder: which files are read, and their digest.

Only the files and settings named here are read. They are copied to a temporary folder first, so that nothing else in a
model folder, and no change after the copy, reaches transformers.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgkit.diffusion.part_config import read_json
from dgkit.documents import DocumentError, parse_config_json, read_bytes
from dgkit.errors import ModelError, one_line, shown
from dgkit.files import output_error

PAIR = ("vocab.json", "merges.txt")
WHOLE = "tokenizer.json"  # the pair and more in one file, which transformers 5 writes; it is read before the pair
SETTINGS = "tokenizer_config.json"
_OPTIONAL = ("special_tokens_map.json", "added_tokens.json")
_KEYS = frozenset(
    {
        "added_tokens_decoder",
        "additional_special_tokens",
        "extra_special_tokens",
        "add_prefix_space",
        "model_max_length",
        "padding_side",
        "truncation_side",
        "split_special_tokens",
        "do_lower_case",
        "errors",
        "clean_up_tokenization_spaces",
    }
)
_TOKEN_FIELDS = frozenset(
    {
        "content",
        "lstrip",
        "normalized",
        "rstrip",
        "single_word",
        "special",
        "__type",
    }
)
_MAX_TOKENS = 1 << 22
_OPENCLIP_WIDTH = 1024  # of Stable Diffusion 2's text encoder, whose published tokenizer pads with "!"


class TokenizerFiles:
    """The files of ``tokenizer/`` that are read, without settings that have no effect on tokens.

    Raises ModelError if files are missing, damaged, or neither of the two forms is complete.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = _used_settings(read_json(folder / SETTINGS), folder / SETTINGS)
        names = [WHOLE] if (folder / WHOLE).exists() else []
        missing = [name for name in PAIR if not (folder / name).exists()]
        if missing and not names:
            raise ModelError(
                f"{folder / missing[0]} is missing, and there is no {WHOLE}",
                f"copy {' and '.join(PAIR)}, or {WHOLE}, from the model that the text encoder belongs to",
            )
        self.contents = {name: _read(folder / name) for name in (*names, *(() if missing else PAIR))}
        self.contents |= {name: _read(folder / name) for name in _OPTIONAL if (folder / name).exists()}

    def length(self, most: int) -> int:
        """Return the number of tokens of a prompt, at most ``most``; a missing or huge limit means no limit."""
        value = self.settings.get("model_max_length")
        if value is None or (type(value) is int and value == 0):
            return most
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 2:
            raise ModelError(
                f"{self.folder / SETTINGS}: model_max_length is {shown(value)}; expected a number of tokens"
            )
        return int(min(value, most))

    def load(self, vocabulary: int) -> Any:
        """Return the CLIP tokenizer. Raises ModelError for damaged files and for tokens that the encoder lacks.

        ``vocabulary`` is the number of tokens that the text encoder knows.
        """
        tokenizer = self._open({**self.contents, SETTINGS: json.dumps(self.settings).encode()})
        if len(tokenizer) > vocabulary:
            raise ModelError(
                f"{self.folder} has {len(tokenizer)} tokens, but the vocabulary of the text encoder is {vocabulary}"
            )
        highest = max(tokenizer.get_vocab().values(), default=0)
        if highest >= vocabulary:
            raise ModelError(f"{self.folder} has token {highest}, but the text encoder has {vocabulary} tokens")
        return tokenizer

    def digest_parts(self, width: int, positions: int) -> tuple[str, ...]:
        """Return the SHA-256 values (hex) that the digest of a model takes from its tokenizer.

        ``width`` and ``positions`` are those of the text encoder. The digests of dgkit 0.1 cover ``vocab.json`` and
        ``merges.txt`` only. They remain if these two files alone give the same tokens: then everything else in the
        folder has no effect. The comparison leaves out whether begin and end of text are looked for before or after the
        prompt is normalised, in which published tokenizers differ and which matters only for a prompt that spells them
        out. In all other cases every file that is read is covered, and so is every setting that has an effect.
        """
        pair = tuple(hashlib.sha256(self.contents[name]).hexdigest() for name in PAIR if name in self.contents)
        if len(pair) == len(PAIR) and self.length(positions) == positions and self._is_plain(width):
            return pair
        settings = json.dumps(self.settings, sort_keys=True).encode()
        covered = {**self.contents, SETTINGS: settings}
        return tuple(f"{name} {hashlib.sha256(covered[name]).hexdigest()}" for name in sorted(covered))

    def _is_plain(self, width: int) -> bool:
        """Return whether ``vocab.json`` and ``merges.txt`` alone give the same tokenizer."""
        pad = {"pad_token": "!"} if width == _OPENCLIP_WIDTH else {}
        plain = {name: self.contents[name] for name in PAIR} | {SETTINGS: json.dumps(pad).encode()}
        if self.settings.keys() <= {"model_max_length", *pad} and set(self.contents) == set(PAIR) and not pad:
            return True
        return _state(self._open({**self.contents, SETTINGS: json.dumps(self.settings).encode()})) == _state(
            self._open(plain)
        )

    def _open(self, contents: Mapping[str, bytes]) -> Any:
        from transformers import CLIPTokenizer

        with tempfile.TemporaryDirectory() as folder:
            try:
                for name, content in contents.items():
                    Path(folder, name).write_bytes(content)
            except OSError as error:
                raise output_error(Path(folder), error) from error
            try:
                return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            except BaseException as error:  # a damaged file can raise many library errors, one of Rust among them
                if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                    raise
                raise ModelError(f"{self.folder} cannot be read: {one_line(str(error))}") from error


@dataclass(frozen=True)
class TokenizerPair:
    """The tokenizers of two text encoders, called as one; the ids of the second are ``input_ids_2``."""

    first: Any
    second: Any

    def __call__(self, text: str | Sequence[str], **options: Any) -> dict[str, Any]:
        """Return the ids of both; options as for CLIP's tokenizer."""
        ids = [one(text, **options)["input_ids"] for one in (self.first, self.second)]
        return {"input_ids": ids[0], "input_ids_2": ids[1]}


def _state(tokenizer: Any) -> tuple[Any, ...]:
    """Return everything that decides the tokens of a prompt."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    for token in backend["added_tokens"]:
        if token["special"]:
            del token["normalized"]
    sides = tokenizer.padding_side, tokenizer.truncation_side, tokenizer.split_special_tokens
    return backend, tokenizer.pad_token_id, *sides


def _read(path: Path) -> bytes:
    """Return the content without a byte order mark. Raises ModelError for anything but a regular file of text."""
    try:
        data = read_bytes(path).removeprefix(b"\xef\xbb\xbf")
        if path.suffix == ".json":
            _check_numbers(parse_config_json(data))
        data.decode()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None
    except (DocumentError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read: {one_line(str(error))}") from None
    return data


def _check_numbers(content: Any) -> None:
    """Raise DocumentError unless ``content`` is an object whose tokens have small numbers.

    The library reserves memory up to the highest number.
    """
    if not isinstance(content, dict):
        raise DocumentError("it is not a JSON object")
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else content
    added = content.get("added_tokens")
    numbers = [*(vocabulary.values() if isinstance(vocabulary, dict) else ())]
    numbers += [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    for number in numbers:
        if isinstance(number, int) and not 0 <= number < _MAX_TOKENS:
            raise DocumentError(f"a token has the number {number}; allowed: 0 to {_MAX_TOKENS - 1:,}")


def _used_settings(found: Mapping[str, Any], path: Path) -> dict[str, Any]:
    settings = {key: value for key, value in found.items() if key in _KEYS or _is_token(key, value)}
    for key, value in settings.items():
        if isinstance(value, dict) and key.endswith("_token") and value.keys() - _TOKEN_FIELDS:
            raise ModelError(f"{path}: {key} is {shown(value)}; expected a token")
    return settings


def _is_token(key: str, value: Any) -> bool:
    return key.endswith("_token") and isinstance(value, str | dict)
