"""Small documents of users, YAML and JSON, read within bounds: length, nesting, and what aliases expand to.

Nothing in a document is executed or imported, and a hostile one costs seconds and megabytes at most. Every failure is a
:class:`DocumentError` whose text is one line.
"""

import json
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import Node, ScalarNode

from dgkit.errors import one_line

MAX_BYTES = 8 * 2**20  # of a file; the largest real ones are vocabularies of tokenizers, 1 to 4 MB
MAX_YAML = 2**20  # characters of a YAML text, which takes 100 times longer to parse than JSON
MAX_NODES = 20_000  # of a YAML text, with every alias counted in full
MAX_DEPTH = 50
MAX_DIGITS = 400  # characters of a YAML value that is not text


class DocumentError(ValueError):
    """A document that cannot be read; the text says why, in one line."""


def read_bytes(path: Path | str, most: int = MAX_BYTES) -> bytes:
    """Return the content of a regular file (or of a pipe that the shell opened, below ``/dev`` or ``/proc``).

    Raises ``OSError``, and DocumentError for anything but a file or for more than ``most`` bytes.
    """
    path = Path(path)
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise DocumentError("it is a folder; expected a file")
    if not stat.S_ISREG(mode) and not str(path.absolute()).startswith(("/dev/fd/", "/dev/std", "/proc/")):
        raise DocumentError("it is not a regular file")
    with path.open("rb") as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise DocumentError(f"it is longer than {most:,} bytes")
    return data


def parse_config_json(data: bytes | str) -> Any:
    """Return the value of a JSON document in UTF-8, with or without a byte order mark. Raises DocumentError.

    Unlike in manifests (:func:`dgkit.files.parse_json`), infinite numbers are values: diffusers writes them.
    """
    try:
        value = json.loads(data.removeprefix("\ufeff") if isinstance(data, str) else data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DocumentError("it is not UTF-8 text") from error
    except RecursionError as error:
        raise DocumentError(f"it is nested deeper than {MAX_DEPTH} levels") from error
    except ValueError as error:  # also an integer of more digits than Python converts
        raise DocumentError(one_line(str(error))) from error
    _check_values(value, "strict")
    return value


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML document (version 1.1, plain types only). Raises DocumentError."""
    if len(text) > MAX_YAML:
        raise DocumentError(f"it is longer than {MAX_YAML:,} characters")
    try:
        value = yaml.load(text, _BoundedLoader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise DocumentError(one_line(str(error))) from error
    _check_values(value, "surrogateescape")  # dgkit itself writes file names that are not UTF-8 in this way
    return value


class _BoundedLoader(yaml.SafeLoader):
    """A SafeLoader that counts nodes while it reads, and reports a value it cannot convert with its place."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._nodes = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Return the next node; its aliases count as if they were written out."""
        is_alias = self.check_event(yaml.AliasEvent)
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        before = self._nodes
        self._nodes += 1
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {MAX_DEPTH} levels", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None and is_alias:
            if id(node) not in self._sizes:
                raise yaml.composer.ComposerError(None, None, "an alias to a value that contains it", mark)
            self._nodes += self._sizes[id(node)]
        if self._nodes > MAX_NODES:
            raise yaml.composer.ComposerError(None, None, f"more than {MAX_NODES:,} values", mark)
        if isinstance(node, ScalarNode) and not node.tag.endswith(":str") and len(node.value) > MAX_DIGITS:
            problem = f"a value of {len(node.value):,} characters that is not text; quote it if it is"
            raise yaml.composer.ComposerError(None, None, problem, mark)
        self._sizes.setdefault(id(node), self._nodes - before)
        return node

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        """Return the Python value of a node; a value that its type does not allow is an error with its place."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
            kind, value = node.tag.rpartition(":")[2], one_line(str(node.value), 60)
            problem = f"{value!r} is not a valid {kind}; quote it if it is text"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error


def _check_values(value: Any, surrogates: str) -> None:
    """Raise DocumentError for deep nesting, and for text with NUL or lone surrogates, which no file name may hold."""
    level: Iterable[Any] = (value,)
    for depth in range(MAX_DEPTH + 2):
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                _check_text(item, surrogates)
            elif isinstance(item, dict):
                below += (*item.keys(), *item.values())
            elif isinstance(item, list | tuple | set):
                below += item
        if not below:
            return
        level = below
        if depth == MAX_DEPTH:
            raise DocumentError(f"it is nested deeper than {MAX_DEPTH} levels")


def _check_text(text: str, surrogates: str) -> None:
    if "\0" in text:
        raise DocumentError(f"the text {one_line(text, 60)!r} holds a NUL character")
    try:
        text.encode("utf-8", surrogates)
    except UnicodeEncodeError as error:
        raise DocumentError(f"the text {one_line(text, 60)!r} is not valid Unicode") from error
