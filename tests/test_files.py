"""Files are complete or absent, whatever goes wrong while they are written."""

import errno
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dgkit.errors import OutputError, UsageError
from dgkit.files import (
    _private_folder,
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
    writable_cache,
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
        assert temporary.parent == tmp_path and is_temporary(temporary.name)
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


def test_a_full_cache_names_its_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "cache"))
    full = OSError(errno.ENOSPC, "full")
    assert "DGKIT_CACHE" in output_error(tmp_path / "cache" / "world" / "a.png", full).hint
    assert "DGKIT_CACHE" not in output_error(tmp_path / "out" / "a.png", full).hint


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


def test_temporary_names_are_new_each_time_and_never_too_long(tmp_path: Path) -> None:
    names = {temporary_path(tmp_path / "a.png").name for _ in range(100)}
    assert len(names) == 100 and all(map(is_temporary, names))
    for name in ("a" * 250, "a\nb.png", os.fsdecode(b"\xdf" * 200)):
        assert is_temporary(temporary_path(tmp_path / name).name)
        atomic_write(tmp_path / name, b"x")
        assert (tmp_path / name).read_bytes() == b"x"


def test_a_temporary_file_that_exists_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").write_text("theirs")
    (tmp_path / "link").symlink_to("other")
    monkeypatch.setattr("dgkit.files.temporary_path", lambda path: tmp_path / "link")
    with pytest.raises(OutputError):
        atomic_write(tmp_path / "a", b"mine")
    assert (tmp_path / "other").read_text() == "theirs"


def test_files_of_other_containers_are_stale_after_a_minute(tmp_path: Path) -> None:
    own = temporary_path(tmp_path / "a.png").name
    pid, space, rest = own.removeprefix(".a.png.").split("-")
    other = f"{int(space, 16) ^ 1:08x}"
    running, stale = (tmp_path / f".{name}.png.{pid}-{other}-{rest}" for name in "ab")
    for path in (running, stale):
        path.write_text("x")
    os.utime(stale, (0, 0))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / own.replace(pid, str(ended.pid), 1)).write_text("x")
    assert remove_stale_temporaries(tmp_path) == 2
    assert list(tmp_path.iterdir()) == [running]


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder that cannot be made, and a temporary directory of its own, which is returned."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "file" / "cache"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    _private_folder.cache_clear()
    yield tmp_path / "tmp"
    _private_folder.cache_clear()


def test_without_a_cache_a_private_folder_is_used(no_cache: Path) -> None:
    folder = writable_cache()
    assert folder == no_cache / f"dgkit-{os.getuid()}" and folder.stat().st_mode & 0o777 == 0o700
    _private_folder.cache_clear()
    assert writable_cache() == folder


@pytest.mark.parametrize("kind", ["open", "link", "file", "foreign"])
def test_a_folder_that_others_may_write_is_not_trusted(
    no_cache: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = no_cache / f"dgkit-{os.getuid()}"
    if kind == "link":
        (no_cache / "theirs").mkdir(mode=0o700)
        taken.symlink_to("theirs")
    elif kind == "file":
        taken.write_text("")
    else:
        taken.mkdir()
        taken.chmod(0o777 if kind == "open" else 0o700)
    if kind == "foreign":
        user = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: user + 1)
        taken.rename(no_cache / f"dgkit-{user + 1}")
    folder = writable_cache()
    assert folder.parent == no_cache and folder.name != taken.name and folder.stat().st_mode & 0o777 == 0o700
    assert writable_cache() == folder
    assert not list(taken.iterdir()) if taken.is_dir() else True


def test_a_cache_that_can_be_written_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "cache"))
    assert writable_cache() == tmp_path / "cache"
    assert (tmp_path / "cache").is_dir()


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
