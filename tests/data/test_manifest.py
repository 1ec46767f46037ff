"""A manifest survives a kill at any byte."""

import errno
import os
from pathlib import Path

import pytest

from dgkit.data.manifest import Manifest, read
from dgkit.errors import InputError, OutputError

RECORDS = [{"id": "a", "prompt": "straße\nnight"}, {"id": "b", "box": [0, 1, 2, 3]}, {"id": "c", "share": 0.01}]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    result = Manifest(tmp_path / "out" / "manifest.jsonl")
    for record in RECORDS:
        result.append(record)
    return result


def test_records_come_back_in_order(manifest: Manifest) -> None:
    assert manifest.read() == read(manifest.path) == RECORDS
    assert len(manifest.path.read_bytes().splitlines()) == 3
    assert Manifest(manifest.path.with_name("absent.jsonl")).read() == []


def test_truncation_at_every_byte(manifest: Manifest) -> None:
    whole = manifest.path.read_bytes()
    ends = [0, *(i + 1 for i, byte in enumerate(whole) if byte == ord("\n"))]
    for length in range(len(whole) + 1):
        manifest.path.write_bytes(whole[:length])
        complete = sum(end <= length + 1 for end in ends[1:])  # a record that lacks only its line feed is whole
        assert manifest.read() == RECORDS[:complete]
        Manifest(manifest.path).append({"id": "new"})
        assert manifest.read() == [*RECORDS[:complete], {"id": "new"}]


def test_repair_returns_the_length_of_what_it_removed(manifest: Manifest) -> None:
    whole = manifest.path.read_bytes()
    assert manifest.repair() == 0
    manifest.path.write_bytes(whole + b'{"id": "d')
    assert manifest.repair() == 9
    assert manifest.path.read_bytes() == whole


def test_zeros_left_by_a_power_cut_count_as_truncated(manifest: Manifest) -> None:
    whole = manifest.path.read_bytes()
    manifest.path.write_bytes(whole + b"\0" * 30 + b"\n")
    assert manifest.read() == RECORDS
    assert manifest.repair() == 31


def test_damage_elsewhere_is_an_error_that_names_the_line(manifest: Manifest) -> None:
    lines = manifest.path.read_bytes().splitlines(keepends=True)
    manifest.path.write_bytes(lines[0] + b"[1]\n" + lines[2])
    with pytest.raises(InputError, match="line 2: not a JSON object"):
        manifest.read()


def test_blank_lines_are_ignored(manifest: Manifest) -> None:
    content = manifest.path.read_bytes()
    for text in (content.replace(b"\n", b"\n\n"), content + b"\r\n\r\n", b"\n" + content):
        manifest.path.write_bytes(text)
        assert manifest.read() == RECORDS


def test_the_last_record_counts_without_its_line_feed(manifest: Manifest) -> None:
    whole = manifest.path.read_bytes()
    manifest.path.write_bytes(whole.removesuffix(b"\n"))
    assert manifest.read() == RECORDS
    assert manifest.repair() == 0
    assert manifest.path.read_bytes() == whole


def test_a_byte_order_mark_and_windows_line_ends(manifest: Manifest) -> None:
    whole = manifest.path.read_bytes()
    manifest.path.write_bytes(b"\xef\xbb\xbf" + whole.replace(b"\n", b"\r\n"))
    assert manifest.read() == RECORDS


@pytest.mark.parametrize("value", ["1e999", "-1e999", "NaN", "[" * 100_000 + "]" * 100_000], ids=lambda v: v[:6])
@pytest.mark.parametrize("last", [True, False])
def test_values_that_no_record_holds_are_refused_even_on_the_last_line(
    manifest: Manifest, value: str, last: bool
) -> None:
    with manifest.path.open("a") as stream:
        stream.write(f'{{"id": "d", "seed": {value}}}\n' + '{"id": "e"}\n' * (not last))
    with pytest.raises(InputError, match=r"line 4: not a JSON object \((the number|nested)"):
        manifest.read()


def test_names_that_are_not_utf8_come_back(manifest: Manifest) -> None:
    manifest.append({"id": "stra\udcdfe"})
    assert manifest.read()[-1] == {"id": "stra\udcdfe"}


def test_a_line_separator_in_a_text_does_not_end_the_line(manifest: Manifest) -> None:
    manifest.append({"id": "d", "prompt": "a\u2028b\x85c\x0bd"})
    assert manifest.read()[-1] == {"id": "d", "prompt": "a\u2028b\x85c\x0bd"}


def test_a_short_write_is_completed(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:3]))
    manifest.append({"id": "d"})
    assert manifest.read()[-1] == {"id": "d"}


def test_appending_again_after_a_full_disk(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        real(descriptor, data[:4])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutputError, match="disk is full"):
        manifest.append({"id": "d"})
    assert manifest.read() == RECORDS
    monkeypatch.setattr(os, "write", real)
    manifest.append({"id": "e"})
    assert manifest.read() == [*RECORDS, {"id": "e"}]


def test_numbers_that_json_cannot_hold(manifest: Manifest) -> None:
    with pytest.raises(ValueError, match="JSON"):
        manifest.append({"loss": float("nan")})
    assert manifest.read() == RECORDS


def test_a_whole_manifest_has_the_bytes_of_its_lines(manifest: Manifest, tmp_path: Path) -> None:
    whole = Manifest(tmp_path / "whole.jsonl")
    whole.rewrite(RECORDS)
    assert whole.path.read_bytes() == manifest.path.read_bytes()
    whole.rewrite([])
    assert whole.path.read_bytes() == b"" and whole.read() == []
