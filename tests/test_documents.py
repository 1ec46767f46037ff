"""Documents of users: what is read, what is refused, and that a hostile one costs next to nothing."""

import json
import os
import resource
import time
from pathlib import Path
from typing import Any

import pytest

from dgkit.config import Config, load_config
from dgkit.documents import MAX_BYTES, MAX_DEPTH, MAX_NODES, DocumentError, parse_config_json, parse_yaml, read_bytes
from dgkit.errors import InputError, UsageError, one_line, shown

BOMB = "a: &a [0,0,0,0,0,0,0,0,0]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{below}'] * 9)}]\n" for below, name in zip("abcdefghi", "bcdefghij", strict=True)
)
MERGE_BOMB = "a: &a {x: 0}\n" + "".join(
    f"{name}: &{name} {{<<: [{','.join([f'*{below}'] * 9)}]}}\n"
    for below, name in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 0x_", "'0x_' is not a valid int; quote it if it is text in"),
        ("a: 2024-02-30", "'2024-02-30' is not a valid timestamp"),
        ("a: !!int x", "'x' is not a valid int"),
        ("a: !!int ''", "'' is not a valid int"),
        ("a: !!float x", "'x' is not a valid float"),
        ("a: !!bool x", "'x' is not a valid bool"),
        ("a: !!timestamp x", "'x' is not a valid timestamp"),
        ("a: " + "9" * 5000, "5,000 characters that is not text"),
        ("a: 0x" + "f" * 5000, "5,002 characters that is not text"),
        ("a: " + ":".join(["59"] * 3000), "characters that is not text"),
        ("a: " + "[" * 5000, f"deeper than {MAX_DEPTH} levels"),
        ("a: " + "{a: " * 5000, f"deeper than {MAX_DEPTH} levels"),
        ("- " * 5000, f"deeper than {MAX_DEPTH} levels"),
        ("\n".join(" " * i + "a:" for i in range(1000)), f"deeper than {MAX_DEPTH} levels"),
        (BOMB, f"more than {MAX_NODES:,} values"),
        (MERGE_BOMB, f"more than {MAX_NODES:,} values"),
        ("a: &a [*a]", "an alias to a value that contains it"),
        ("a: &a {<<: *a}", "an alias to a value that contains it"),
        ("a: [" + "1," * 30_000 + "]", f"more than {MAX_NODES:,} values"),
        ("a: " + "x" * 2**21, "longer than 1,048,576 characters"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ('a: "\\U00110000"', "chr() arg"),
        ('a: "\\ud800"', "not valid Unicode"),
        ('a: "x\\0y"', "NUL character"),
        ("? [1]\n: 2", "unhashable"),
        ("a: b: c", "mapping values are not allowed"),
    ],
    ids=lambda value: one_line(value, 40),
)
def test_yaml_that_is_refused_in_one_line(text: str, words: str) -> None:
    start = time.monotonic()
    with pytest.raises(DocumentError) as raised:
        parse_yaml(text)
    message = str(raised.value)
    assert words in message and "\n" not in message and len(message) <= 300
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: *a", {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": {"x": 1}}),
        ("a: 0x1F\nb: 1_000\nc: 1:30", {"a": 31, "b": 1000, "c": 90}),
        ("\ufeffa: 1", {"a": 1}),
        ('a: "caf\\udce9"', {"a": "caf\udce9"}),
        ("", None),
    ],
)
def test_yaml_that_is_read(text: str, value: object) -> None:
    assert parse_yaml(text) == value


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"[" * 100_000, "nested deeper"),
        (b"[" * 60 + b"]" * 60, "nested deeper"),
        (b'{"a":' * 60 + b"0" + b"}" * 60, "nested deeper"),
        (b"9" * 5000, "4300"),
        (b"\xff\xfe", "not UTF-8 text"),
        (b'"\\ud800"', "not valid Unicode"),
        (b'{"a\\u0000": 1}', "NUL character"),
        (b"{", "Expecting property name"),
        (b"", "Expecting value"),
    ],
    ids=lambda value: shown(value, 40),
)
def test_json_that_is_refused_in_one_line(data: bytes, words: str) -> None:
    with pytest.raises(DocumentError) as raised:
        parse_config_json(data)
    assert words in str(raised.value) and len(str(raised.value)) <= 300


def test_json_with_a_byte_order_mark() -> None:
    assert parse_config_json(b"\xef\xbb\xbf" + json.dumps({"a": [1]}).encode()) == {"a": [1]}
    assert parse_config_json("\ufeff[2]") == [2]


def test_only_regular_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DocumentError, match="not a regular file"):
        read_bytes(tmp_path / "pipe")
    with pytest.raises(DocumentError, match="a folder"):
        read_bytes(tmp_path)
    with open(tmp_path / "sparse", "wb") as stream:
        stream.truncate(2**35)
    with pytest.raises(DocumentError, match=f"longer than {MAX_BYTES:,} bytes"):
        read_bytes(tmp_path / "sparse")
    reader, writer = os.pipe()
    os.write(writer, b"a: 1")
    os.close(writer)
    assert read_bytes(f"/dev/fd/{reader}") == b"a: 1"
    os.close(reader)


@pytest.mark.parametrize(
    "value",
    [10**5000, "x" * 10**7, [[[["x" * 1000] * 100] * 100] * 100] * 100, {1: {2: {3: {}}}}],
    ids=["number", "text", "lists", "mappings"],
)
def test_a_value_in_a_message_is_short(value: object) -> None:
    assert len(shown(value)) <= 300 and "\n" not in shown(value)


def test_values_in_messages_as_users_wrote_them() -> None:
    assert shown("traffic light") == "'traffic light'" and shown([1, 2, 3]) == "[1, 2, 3]" and shown(0.1) == "0.1"
    assert shown("a\nb\udce9") == "'a\\nb\\udce9'" and shown(None) == "None"
    assert one_line("a\n  b\x1b[0m\udce9") == "a b\\x1b[0m\\udce9"
    assert one_line("a" * 50 + "b" * 50, 21) == "a" * 9 + "..." + "b" * 9


class Settings(Config):
    count: int = 1
    """A number."""
    mix: dict[str, float] | None = None
    """A mapping."""


@pytest.mark.parametrize(
    "text", [BOMB, MERGE_BOMB, "count: 0x_", "count: [" * 3000, "count: " + "1" * 5000], ids=range(5)
)
def test_a_hostile_recipe_is_one_line_in_bounded_memory(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"recipe\.yaml is not valid YAML") as raised:
        load_config(Settings, path)
    assert len(raised.value.message) < 300 + len(str(path)) + 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"recipe": "/etc/hostname"}, "unknown key 'recipe'"),
        ({"sets": ["count=2"]}, "unknown key 'sets'"),
        ({"cls": 1}, "unknown key 'cls'"),
        ({"self": 1}, "unknown key 'self'"),
        ({"x" * 10**6: 1}, "unknown key"),
        ({"count": ["x" * 10**6] * 100}, "count="),
        ({"mix": {"x" * 10**6: "y" * 10**6}}, "mix"),
        ({"a\nb": 1}, r"unknown key 'a b'"),
        ({1: 1}, "keys"),
    ],
    ids=range(9),
)
def test_values_of_a_file_are_never_arguments(values: dict[Any, Any], words: str) -> None:
    for build in (lambda: load_config(Settings, values), lambda: load_config(Settings, **values)):
        with pytest.raises((UsageError, TypeError)) as raised:
            build()
        if isinstance(raised.value, UsageError):
            assert words in raised.value.message and len(raised.value.message) < 1000
            assert "\n" not in raised.value.message


def test_a_group_of_many_levels() -> None:
    with pytest.raises(UsageError, match="not an assignment"):
        load_config(Settings, None, ["a." * 60_000 + "b=1"])
