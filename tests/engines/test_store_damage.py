"""An engine that is stale, damaged or of another machine is reported with the difference, and never used."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dgkit.engines import sidecar
from dgkit.engines.inventory import entries, prune
from dgkit.engines.sidecar import SIDECAR, STAMPS
from dgkit.engines.store import Engine, EngineStore
from dgkit.errors import EngineError, OutputError
from tests.engines.stored import CONTENT, KEY, OTHER_KEYS, build, change, refuse


@pytest.mark.parametrize("field", OTHER_KEYS)
def test_an_engine_under_a_wrong_name(store: EngineStore, engine: Engine, field: str) -> None:
    other = change(**OTHER_KEYS[field])
    shutil.copytree(engine.folder, store.folder(other))  # for example copied from another machine or model
    with pytest.raises(EngineError, match=f"{other.name} has changed: {field}: "):
        store.open(other)


def truncate(folder: Path) -> None:
    os.truncate(folder / "model.bin", 100)


def flip(folder: Path) -> None:
    """Change one byte, but neither size nor modification time."""
    path = folder / "model.bin"
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def edit(name: str, value: object) -> Callable[[Path], None]:
    def change_sidecar(folder: Path) -> None:
        path = folder / SIDECAR
        content = json.loads(path.read_text())
        place = content["key"] if name in content["key"] else content
        assert place[name] != value
        place[name] = value
        path.write_text(json.dumps(content))

    return change_sidecar


def forge(folder: Path) -> None:
    """Replace a file and its entry in the side-car, but not the checksum."""
    (folder / "model.bin").write_bytes(b"other")
    entries = [entry.model_dump() for entry in sidecar.describe_files(folder)]
    edit("files", entries)(folder)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncate, "size of model.bin: expected 10240, found 100"),
    "one byte flipped": (flip, "sha256 of model.bin: expected [0-9a-f]{12}…, found [0-9a-f]{12}…"),
    "file missing": (lambda folder: (folder / "weights" / "0.bin").unlink(), "file weights/0.bin: .* found absent"),
    "foreign file": (lambda folder: (folder / "x.bin").write_bytes(b"x"), "file x.bin: expected absent, found present"),
    "side-car missing": (lambda folder: (folder / SIDECAR).unlink(), "side-car: expected engine.json, found missing"),
    "side-car cut": (lambda folder: os.truncate(folder / SIDECAR, 50), "side-car: .*not valid"),
    "side-car of later": (edit("version", 2), "side-car: .*not valid: version"),
    "side-car edited": (edit("dtype", "bf16"), "side-car checksum: .*edited"),
    "notes edited": (edit("seconds", 1e6), "side-car checksum: .*edited"),
    "forged": (forge, "side-car checksum: .*edited"),
    "a file instead": (lambda folder: (shutil.rmtree(folder), folder.write_text("x"))[0], "side-car: .*unreadable"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_engine_is_named_and_rebuilt(
    store: EngineStore, engine: Engine, damage: str, logged: pytest.LogCaptureFixture
) -> None:
    harm, words = DAMAGES[damage]
    harm(engine.folder)
    for attempt in (lambda: store.open(KEY), lambda: store.obtain(KEY, refuse, rebuild="never")):
        with pytest.raises(EngineError, match=f"{KEY.name} has changed: {words}") as caught:
            attempt()
        assert caught.value.hint.startswith("dgkit build-engines MODEL") and "\n" not in caught.value.message
    assert store.obtain(KEY, build).file("model.bin").read_bytes() == CONTENT
    assert len(logged.messages) == 1 and logged.messages[0].startswith(
        f"building {KEY.name}: engine {KEY.name} has changed: "
    )
    assert [path.name for path in store.root.iterdir()] == [KEY.name] and entries(store)[0].state == "ok"


@pytest.mark.parametrize("path", ["../model.bin", "/etc/passwd", "", SIDECAR])
def test_a_sidecar_cannot_point_elsewhere(store: EngineStore, engine: Engine, path: str) -> None:
    edit("files", [{"path": path, "size": 1, "sha256": "0" * 64}])(engine.folder)
    with pytest.raises(EngineError, match=r"not valid: files.0.path: .* outside the engine's folder"):
        store.open(KEY)


def test_large_files_are_hashed_again_only_if_something_changed(
    store: EngineStore, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    real = sidecar.digest_file
    monkeypatch.setattr(sidecar, "ALWAYS_HASHED", 1000)
    monkeypatch.setattr(sidecar, "digest_file", lambda path: hashed.append(path.name) or real(path))
    store.open(KEY)
    assert hashed == ["0.bin"]  # the build has left stamps
    (engine.folder / "model.bin").touch()
    store.open(KEY)
    store.open(KEY)
    assert hashed == ["0.bin", "model.bin", "0.bin", "0.bin"]
    (engine.folder / STAMPS).write_text("[]")
    store.open(KEY)
    assert hashed[4:] == ["model.bin", "0.bin"]
    flip(engine.folder)
    with pytest.raises(EngineError, match=r"sha256 of model\.bin"):
        store.open(KEY)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_leaves_nothing(store: EngineStore) -> None:
    def fill(folder: Path) -> None:
        (folder / "good.bin").write_bytes(b"x")
        (folder / "model.bin").symlink_to("/dev/full")
        (folder / "model.bin").write_bytes(CONTENT)

    with pytest.raises(OutputError, match="the disk is full"):
        store.obtain(KEY, fill)
    assert not list(store.root.iterdir())


def test_a_disk_that_is_full_at_the_sidecar(store: EngineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="the disk is full"):
        store.obtain(KEY, build)
    assert not list(store.root.iterdir())


def test_a_store_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        EngineStore(tmp_path / "file" / "engines").obtain(KEY, build)


BUILDER = """
import sys, time
from pathlib import Path
from dgkit.engines.sidecar import EngineKey
from dgkit.engines.store import EngineStore
assert "torch" not in sys.modules  # listing engines must be quick
root, key, seconds = Path(sys.argv[1]), EngineKey.model_validate_json(sys.argv[2]), float(sys.argv[3])
def build(folder):
    (folder / "model.bin").write_bytes(b"half")
    print("building", flush=True)
    time.sleep(seconds)
    (folder / "model.bin").write_bytes(b"complete")
engine = EngineStore(root).obtain(key, build, notify=lambda text: print(text.partition(" ")[0], flush=True))
print(engine.file("model.bin").read_bytes().decode(), flush=True)
"""


def start_builder(store: EngineStore, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, str(store.root), KEY.model_dump_json(), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_builders_build_once(store: EngineStore) -> None:
    with start_builder(store, 1.0) as first, start_builder(store, 1.0) as second:
        said = [builder.communicate()[0].split() for builder in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    waited, built = sorted(said, key=lambda words: "building" in words)
    assert built == ["building", "complete"]
    assert waited in (["another", "complete"], ["complete"])  # the latter if it started after the end of the other
    assert [path.name for path in store.root.iterdir()] == [KEY.name]


def test_the_second_builder_waits(store: EngineStore) -> None:
    said: list[str] = []
    with start_builder(store, 0.5) as builder:
        assert builder.stdout is not None and builder.stdout.readline() == "building\n"
        engine = store.obtain(KEY, refuse, notify=said.append)
        builder.communicate()
    assert said == ["another process is building the openvino engine of the denoiser; waiting for it"]
    assert engine.file("model.bin").read_bytes() == b"complete"


def test_the_remains_of_a_killed_builder_are_ignored(store: EngineStore) -> None:
    with start_builder(store, 60) as builder:
        assert builder.stdout is not None and builder.stdout.readline() == "building\n"
        assert prune(store) == []  # it is being built, so it is kept
        assert f".{KEY.name}.tmp" in {path.name for path in store.root.iterdir()}
        builder.send_signal(signal.SIGKILL)
    assert f".{KEY.name}.tmp" in {path.name for path in store.root.iterdir()} and entries(store) == []
    with pytest.raises(EngineError, match="there is no openvino engine in fp32 for the denoiser"):
        store.open(KEY)
    prune(store)
    assert not list(store.root.iterdir())
    (store.root / f".{KEY.name}.tmp").mkdir()
    (store.root / f".{KEY.name}.old").mkdir()
    assert store.obtain(KEY, build).file("model.bin").read_bytes() == CONTENT
    assert [path.name for path in store.root.iterdir()] == [KEY.name]


def test_a_read_only_store(store: EngineStore, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(sidecar, "ALWAYS_HASHED", 0)
    (engine.folder / STAMPS).unlink()
    monkeypatch.setattr(Path, "touch", deny)
    monkeypatch.setattr(Path, "write_bytes", deny)
    monkeypatch.setattr(Path, "mkdir", deny)
    assert store.obtain(KEY, refuse) == engine
    assert not (engine.folder / STAMPS).exists()
