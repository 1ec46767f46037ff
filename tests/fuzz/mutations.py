"""Seeded damage: to values of JSON and YAML documents, to bytes, and to what a path is."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

_RAW = "@raw{}@"

PLAIN_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63) - 1, 10**9, 10**30, 0.5, -0.0, 1e308, 1e-320, "", " ", "x",
    "0", "\0", "a\nb", "a\rb", "\u2028", "\ufeff", "é", "e\u0301", "日本", "../../etc/passwd", "/etc/passwd", "~",
    "a/b", "..", "-", "--help", "nan", "C:\\a\\b", "s3://bucket/x", "hf://me/ds", "a" * 300, "b" * 100_000, [], {},
    [None], [[]], [0] * 1000, [1, 2], [-5, -5, 0, 0], {"a": 1}, {"": None}, {"type": "os.system"}, ["a", 1, None],
    [1e308, 1e308],
)  # fmt: skip
RAW_JSON = (
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000, "-" + "9" * 400, "1." + "0" * 3000, "01", "1e",
    "tru", "[" * 50_000, "[" * 500 + "]" * 500, '{"a":' * 5_000 + "1" + "}" * 5_000, '"\\ud800"', '"\\udcff"',
    '"\\u0000"', '{"a": 1, "a": 2}', "", "//", "'x'", "\x00", '"\x01"',
)  # fmt: skip
RAW_YAML = (
    *RAW_JSON, "0x_", "0b_", "0o_", "0_", "2024-02-30", "2024-13-01", "2024-02-28T25:00:00Z", "!!int x", "!!int ''",
    "!!float x", "!!float '1:x'", "!!bool x", "!!timestamp x", "!!binary é", "!!binary x", "!!set [1]", "!!omap [1]",
    "!!pairs [1]", "!!null x", "!!python/object/apply:os.system ['true']", "!!python/name:os.system", "!x y", "*a",
    "&a x", "&a [*a]", "&a {b: *a}", "{<<: x}", "{<<: [1]}", "{<<: {a: 1}}", "{[1, 2]: 3}", "{{a: 1}: 3}", "? [a]\n",
    "=", "<<", "%", "@", "`", "1:99:99", "190:20:30", "0o8", ".inf", "-.inf", ".nan", "!!int '" + "9" * 5000 + "'",
    "|\n  x", ">-\n\n", "\t", "\x85", "\u2029", "\ud83d", "[", "{", "{a: [}", "- - - - x", "'", '"', '"\\xZZ"',
    '"\\UFFFFFFFF"', "---\n...\n", "- " * 2000 + "x", "{a: " * 300 + "}" * 300, "? " * 500,
)  # fmt: skip

YAML_DOCUMENTS = (
    "", "null", "[]", "[1]", "x", "- a\n- b\n", "a: 1\na: 2\n", "---\na: 1\n---\na: 2\n", "%YAML 9.9\n---\na: 1\n",
    "%TAG ! tag:x,2000:\n---\n!y z\n", "\ufeffa: 1\n", "a:\n\tb: 1\n", "&a [*a]", "&a {a: *a}", "{" * 20_000,
    "[" * 20_000, "a: " + "[" * 900 + "]" * 900, "1" * 100_000, ": :", "? a", "!!python/object/new:os.system [true]",
    "2024-02-30: 1", "[1, 2]: 3", "{a: 1}: 2", "!!set {a, b}", "0x_: 1", "null: 1", "true: 1", "1: 1", "1.5: 1",
    "a: b: c", "a: &x {b: 1}\nc: {<<: *x}\n", "a\0b: 1", "\x1b: 1", "é: 1", "#", "...", "---", "- " * 3000,
)  # fmt: skip


def alias_bomb(levels: int = 9, width: int = 9) -> str:
    """YAML of a few hundred bytes that stands for width ** levels items."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


class Document:
    """A JSON or YAML document with some of its values replaced."""

    def __init__(self, rng: random.Random, value: Any, raw: Sequence[str] = RAW_JSON) -> None:
        self.rng, self.raw_choices = rng, raw
        self.value = copy.deepcopy(value)
        self.raw: list[str] = []

    def mutated(self, times: int) -> Document:
        for _ in range(times):
            places = list(_places(self.value))
            if not places:
                self.value = self._new()
                continue
            owner, key = self.rng.choice(places)
            self._change(owner, key)
        return self

    def text(self, indent: int | None = None) -> str:
        """JSON, which is YAML too; raw pieces as they are."""
        text = json.dumps(self.value, indent=indent, ensure_ascii=self.rng.random() < 0.5)
        for number, piece in enumerate(self.raw):
            text = text.replace(json.dumps(_RAW.format(number)), piece, 1)
        return text

    def _new(self) -> Any:
        if self.rng.random() < 0.4:
            self.raw.append(self.rng.choice(self.raw_choices))
            return _RAW.format(len(self.raw) - 1)
        return copy.deepcopy(self.rng.choice(PLAIN_VALUES))

    def _change(self, owner: Any, key: Any) -> None:
        how = self.rng.random()
        if how < 0.7:
            owner[key] = self._new()
        elif how < 0.8:
            del owner[key]
        elif how < 0.87 and isinstance(owner, dict):
            owner[self.rng.choice(("", "x", "é", "\0", "__class__", "type", "a" * 1000))] = self._new()
        elif how < 0.92 and isinstance(owner, list):
            owner.extend([owner[key]] * self.rng.choice((1, 3, 50)))
        else:
            owner[key] = _near(self.rng, owner[key])


def _near(rng: random.Random, value: Any) -> Any:
    """A value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + rng.choice((-1, 1, 1000, -1000, 10**6))
    if isinstance(value, float):
        return value * rng.choice((-1, 0, 1e6, 1e-6))
    if isinstance(value, str):
        return rng.choice((value + "x", value[:-1], value.upper(), value * 3, f" {value}", value + "\n"))
    return [value]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys: Sequence[Any] = (
        list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in keys:
        yield value, key
        yield from _places(value[key])


def broken_text(rng: random.Random, text: str) -> bytes:
    """The text as bytes: usually as it is, sometimes in another encoding, cut off or with odd bytes."""
    data = text.encode("utf-8", "surrogatepass")
    how = rng.random()
    if how < 0.75:
        return data
    if how < 0.8:
        return b"\xef\xbb\xbf" + data
    if how < 0.84:
        return text.encode(rng.choice(("utf-16", "utf-32")), "surrogatepass")
    if how < 0.88:
        return data.replace(b"\n", b"\r\n")
    return broken_bytes(rng, data)


def broken_bytes(rng: random.Random, data: bytes) -> bytes:
    """Cut off, with bytes changed, removed, doubled or inserted."""
    content = bytearray(data)
    if not content:
        return rng.randbytes(rng.choice((0, 1, 8, 100)))
    place = rng.randrange(len(content))
    match rng.randrange(7):
        case 0:
            return bytes(content[:place])
        case 1:
            for _ in range(rng.choice((1, 2, 8, 64))):
                content[rng.randrange(len(content))] = rng.randrange(256)
        case 2:
            content[place : place + rng.choice((1, 4, 100))] = b""
        case 3:
            content[place:place] = rng.randbytes(rng.choice((1, 4, 100)))
        case 4:
            content[place:place] = content[place : place + 200]
        case 5:
            content[place : place + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0"))
        case _:
            return b""
    return bytes(content)


def odd_file(rng: random.Random, path: Path) -> None:
    """Put something that is no regular file, or no readable one, in the place of a file."""
    if path.is_dir() and not path.is_symlink():
        return
    path.unlink(missing_ok=True)
    makers: tuple[Callable[[], object], ...] = (
        path.mkdir,
        lambda: os.mkfifo(path),
        lambda: path.symlink_to(path.name),
        lambda: path.symlink_to("/nowhere"),
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.symlink_to("/dev/null"),
        lambda: path.write_bytes(b"\0" * 4096),
        lambda: _sparse(path, 30 << 30),
    )
    rng.choice(makers)()


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)
