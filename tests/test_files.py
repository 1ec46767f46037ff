"""Files are complete or absent, whatever goes wrong while they are written."""

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dgkit.errors import OutputError, UsageError
from dgkit.files import (
    atomic_path,
    atomic_write,
    cache_folder,
    digest_file,
    is_temporary,
    json_bytes,
    local_path,
    output_error,
    parse_json,
    remove_stale_temporaries,
    temporary_path,
    write_changed,
)


def test_writing_and_replacing_leave_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.bin"
    atomic_write(path, b"first")
    atomic_write(str(path), b"second")
    assert path.read_bytes() == b"second"
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]


def test_a_failing_block_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent == tmp_path and temporary.name == f".a.txt.{os.getpid()}.tmp"
        _ = 1 / 0
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "disk is full"), (errno.EDQUOT, "disk is full"), (errno.EROFS, "permission denied")],
)
def test_a_full_or_read_only_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    def half(self: Path, data: bytes) -> int:
        with open(self, "wb") as stream:
            stream.write(data[: len(data) // 2])
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OutputError, match=words) as caught:
        atomic_write(tmp_path / "a.bin", b"0123456789")
    assert str(tmp_path / "a.bin") in caught.value.message and caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_real_full_disk() -> None:
    with pytest.raises(OSError) as caught, open("/dev/full", "wb", buffering=0) as stream:
        stream.write(b"x")
    assert "disk is full" in output_error(Path("out.png"), caught.value).message


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        atomic_write(tmp_path / "out" / "a.png", b"x")


def test_a_folder_where_the_file_should_be(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*a\.png"):
        atomic_write(tmp_path / "a.png", b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_only_files_of_dead_processes_are_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    stale = [tmp_path / f".a.png.{ended.pid}.tmp", tmp_path / f".b.json.{os.getpid()}.tmp"]
    kept = [tmp_path / f".c.png.{os.getppid()}.tmp", tmp_path / "d.tmp", tmp_path / ".hidden.tmp"]
    for path in stale + kept:
        path.write_text("x")
    assert remove_stale_temporaries(tmp_path) == 2
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    assert remove_stale_temporaries(tmp_path / "absent") == 0


def test_digest_is_sha256(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"dgkit")
    assert digest_file(path) == hashlib.sha256(b"dgkit").hexdigest()


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGKIT_CACHE", "/x/own")
    assert cache_folder() == Path("/x/own")
    monkeypatch.delenv("DGKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x/xdg")
    assert cache_folder() == Path("/x/xdg/dgkit")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "dgkit"


def test_an_unchanged_file_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_changed(path, b"one")
    os.utime(path, (0, 0))
    write_changed(path, b"one")
    assert path.stat().st_mtime == 0
    write_changed(path, b"two")
    assert path.read_bytes() == b"two" and path.stat().st_mtime > 0


def test_json_is_readable_text() -> None:
    assert json_bytes({"name": "é", "size": [1]}) == '{\n  "name": "é",\n  "size": [\n    1\n  ]\n}\n'.encode()


def test_json_with_a_byte_order_mark() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == parse_json('\ufeff{"a": 1}') == {"a": 1}


@pytest.mark.parametrize("text", ["1e999", "NaN", "[-Infinity]", "[" * 100_000, "{", "\udcff", '"' + "9" * 5000])
def test_json_that_cannot_be_used_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text)
    assert parse_json(json_bytes("stra\udcdfe")) == "stra\udcdfe"


def test_names_of_temporary_files() -> None:
    assert is_temporary(temporary_path(Path("a/b.png")).name)
    assert not any(map(is_temporary, ("b.png", ".b.png.tmp", "b.png.12.tmp", ".lock")))


@pytest.mark.parametrize(
    "value", ["s3://bucket/x", Path("s3://bucket/x"), "hf://me/ds", Path("file:///x"), "x-y.z+1://a", Path("GS://b")]
)
def test_urls_are_no_paths(value: str | Path) -> None:
    with pytest.raises(UsageError, match="is a URL; paths must be local") as raised:
        local_path(value)
    assert raised.value.hint
    assert "://" in raised.value.message


@pytest.mark.parametrize(
    "value", ["exp:night", "exp:night/a", "C:/x", "C://x", "a/s3://b", Path("exp:/a"), ":", "owner/name"]
)
def test_colons_are_allowed_in_paths(value: str | Path) -> None:
    assert local_path(value) == Path(value)
