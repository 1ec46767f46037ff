"""Timing caches are copied out of the store and in again; other files are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from dgkit.engines.store import EngineStore
from dgkit.engines.timing_caches import cache_name, export_caches, import_caches
from dgkit.errors import InputError, UsageError

NAME = cache_name("trt", "11.4.0", (9, 0))
CONTENT = bytes(range(64))


def test_there_and_back(store: EngineStore, tmp_path: Path) -> None:
    store.root.mkdir(parents=True)
    (store.root / f".{NAME}").write_bytes(CONTENT)
    (copy,) = export_caches(store, tmp_path / "out")
    assert copy.name == NAME == "timings-trt-11.4.0-9.0.cache"
    other = EngineStore(tmp_path / "other")
    for source in (copy, tmp_path / "out"):
        assert import_caches(other, source) == [other.root / f".{NAME}"]
        assert (other.root / f".{NAME}").read_bytes() == CONTENT


def test_store_without_a_cache(store: EngineStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no timing cache; TensorRT-RTX needs none"):
        export_caches(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_files_are_refused(store: EngineStore, tmp_path: Path) -> None:
    (tmp_path / "x.cache").write_bytes(CONTENT)
    with pytest.raises(UsageError, match=r"x\.cache is not a timing cache of dgkit"):
        import_caches(store, tmp_path / "x.cache")
    with pytest.raises(InputError, match="has no timing cache"):
        import_caches(store, tmp_path)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        import_caches(store, tmp_path / NAME)
    (tmp_path / NAME).write_bytes(CONTENT[:3])
    with pytest.raises(InputError, match="is truncated: it has 3 bytes"):
        import_caches(store, tmp_path)
    assert not store.root.exists()
