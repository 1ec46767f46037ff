"""An engine is built once, found by its key, listed, and removed when it is unused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dgkit.engines import machine
from dgkit.engines.inventory import entries, find, prune
from dgkit.engines.machine import NOT_INSTALLED, backend_version, device_facts, local_key, package_versions
from dgkit.engines.sidecar import Difference, EngineKey, key_differences, list_files
from dgkit.engines.store import Engine, EngineStore, rebuild_command
from dgkit.errors import EngineError, UsageError
from tests.engines.stored import CONTENT, KEY, OTHER_KEYS, build, change, refuse


def test_builds_once_and_logs_why(store: EngineStore, logged: pytest.LogCaptureFixture) -> None:
    said: list[str] = []
    engine = store.obtain(KEY, build, notify=said.append)
    assert said == []
    assert logged.messages == [f"building {KEY.name}: there is no openvino engine in fp32 for the denoiser"]
    assert store.obtain(KEY, refuse, notify=said.append) == store.open(KEY) == engine and len(logged.messages) == 1
    assert engine.file("model.bin").read_bytes() == CONTENT and engine.file("weights/0.bin").is_file()
    assert engine.sidecar.size == len(CONTENT) + 7 and engine.sidecar.notes == {"error": 1e-5}
    assert sorted(path.name for path in store.root.iterdir()) == [engine.name]
    with pytest.raises(EngineError, match=r"no file 'x'; it has model.bin, weights/0.bin"):
        engine.file("x")


@pytest.mark.parametrize("field", OTHER_KEYS)
def test_another_key_gives_another_engine(
    store: EngineStore, engine: Engine, field: str, logged: pytest.LogCaptureFixture
) -> None:
    other = change(**OTHER_KEYS[field])
    with pytest.raises(EngineError, match=f"differs in {field}: expected .*, found ") as caught:
        store.open(other, "models/city")
    assert caught.value.hint == (
        f"dgkit build-engines models/city --engine openvino --networks denoiser --dtype {other.dtype} "
        f"--batch {other.shapes['batch']} --rebuild always"
    )
    with pytest.raises(EngineError, match=field):
        store.obtain(other, refuse, rebuild="never")
    second = store.obtain(other, build)
    assert f"differs in {field}: " in logged.messages[-1]
    assert second.folder != engine.folder and store.open(KEY) == engine  # the first one is kept: both may be in use


def test_always_builds_again_and_keeps_the_old_one_until_then(
    store: EngineStore, engine: Engine, logged: pytest.LogCaptureFixture
) -> None:
    def fail(folder: Path) -> None:
        assert store.open(KEY) == engine  # readers and a build do not block each other
        (folder / "half.bin").write_bytes(b"half")
        raise EngineError("no")

    with pytest.raises(EngineError, match="no"):
        store.obtain(KEY, fail, rebuild="always")
    assert logged.messages == [f"building {KEY.name}: rebuild requested"]
    assert store.open(KEY) == engine and [path.name for path in store.root.iterdir()] == [KEY.name]

    def rebuild(folder: Path) -> None:
        (folder / "new.bin").write_bytes(b"new")

    assert list_files(store.obtain(KEY, rebuild, rebuild="always").folder) == ["new.bin"]
    with pytest.raises(UsageError, match="known: never, auto, always"):
        store.obtain(KEY, build, rebuild="sometimes")  # type: ignore[arg-type]


def test_a_build_that_writes_nothing(store: EngineStore) -> None:
    with pytest.raises(EngineError, match="wrote no file"):
        store.obtain(KEY, lambda folder: None)
    assert not list(store.root.iterdir())


def test_the_key_is_read_back_as_written() -> None:
    assert EngineKey.model_validate_json(KEY.model_dump_json()) == KEY
    keys = [KEY, *(change(**values) for values in OTHER_KEYS.values())]
    assert len({key.name for key in keys}) == len(keys)
    assert key_differences(KEY, KEY) == ()
    assert key_differences(change(flags={}), KEY) == (Difference("flags.cuda_graph", "absent", "False"),)
    with pytest.raises(ValueError, match="pattern"):
        change(network="../denoiser")


def test_notes_that_are_not_numbers(store: EngineStore) -> None:
    def measure(folder: Path) -> Mapping[str, Any]:
        build(folder)
        return {"error": float("nan")}

    store.obtain(KEY, measure)
    assert store.open(KEY).sidecar.notes == {"error": None}


def test_entries_compare_with_this_machine(store: EngineStore, engine: Engine) -> None:
    old = change(backend_version="0.1", device={**KEY.device, "features": "none of these"})
    store.obtain(old, build)
    (store.root / "notes").mkdir()
    (store.root / "denoiser.plan").write_text("x")
    shutil.copytree(engine.folder, store.root / f"{KEY.name[:-16]}{'0' * 16}")
    states = {entry.name: entry.state for entry in entries(store)}
    assert states == {
        KEY.name: "ok",
        old.name: "stale: backend_version",
        f"{KEY.name[:-16]}{'0' * 16}": "stale: folder",
        "notes": "stale: folder",
        "denoiser.plan": "stale: folder",
    }
    entry = find(store, KEY.digest()[:8])
    assert entry.sidecar == engine.sidecar and entry.size > len(CONTENT)
    for identity, words in (("denoiser-", "matches 3 engines"), ("zzz", "matches no engine")):
        with pytest.raises(UsageError, match=words):
            find(store, identity)
    assert entries(EngineStore(store.root / "absent")) == []


def test_prune(store: EngineStore, engine: Engine) -> None:
    old, stale = change(weights="c" * 64), change(backend_version="0.1")
    os.utime(store.obtain(old, build).folder, (0, 0))
    store.obtain(stale, build)
    (store.root / "notes").mkdir()
    os.utime(store.root / "notes", (0, 0))

    def names(**settings: Any) -> list[str]:
        return [entry.name for entry in prune(store, **settings)]

    assert names(unused_days=30, dry_run=True) == [old.name] and store.folder(old).is_dir()
    assert names(stale=True, dry_run=True) == [stale.name]
    assert names() == []
    assert names(unused_days=30) == [old.name] and not store.folder(old).exists()
    assert names(stale=True) == [stale.name]
    assert sorted(path.name for path in store.root.iterdir()) == sorted([KEY.name, "notes"])  # another folder is kept
    os.utime(engine.folder, (0, 0))
    store.open(KEY)  # a use
    assert names(unused_days=30) == []


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_key(KEY) == KEY
    assert backend_version("nope") == NOT_INSTALLED and package_versions(["nope"]) == {"nope": NOT_INSTALLED}
    assert device_facts("any") == {"kind": "any"}
    assert device_facts("cpu")["arch"]
    gpus = [{"kind": "cuda", "name": name} for name in ("small", "large")]
    monkeypatch.setattr(machine, "_cuda_facts", lambda index: (gpus[index : index + 1] or [{"kind": "none"}])[0])
    assert local_key(change(device=gpus[1])).device == gpus[1]
    assert local_key(change(device={"kind": "cuda", "name": "other"})).device == gpus[0]
    assert device_facts("cuda:1") == gpus[1] and device_facts("cuda:7") == {"kind": "none"}


def test_rebuild_command() -> None:
    def command(**values: Any) -> str:
        return rebuild_command(change(**{"shapes": {"batch": "any"}, **values}), "m --controlnet c")

    start = "dgkit build-engines m --controlnet c --engine"
    assert command() == f"{start} openvino --networks denoiser --dtype fp32 --rebuild always"
    assert command(backend="onnx") == f"{start} ort --networks denoiser --dtype fp32 --rebuild always"
    assert command(backend="rtx", shapes={"batch": "1,8,64"}, device={"kind": "cuda"}) == (
        f"{start} trt --networks denoiser --dtype fp32 --device cuda --batch 1,8,64 --rebuild always"
    )
    assert command(backend="onnx", dtype="fp16") == (
        "dgkit export m --controlnet c OUT --networks denoiser --dtype fp16 --rebuild always"
    )
