"""``dgkit engines`` through the real command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dgkit.cli.app import main
from dgkit.cli.common import size_text
from dgkit.cli.engines import _age
from dgkit.engines.machine import backend_version, device_facts
from dgkit.engines.sidecar import EngineKey
from dgkit.engines.store import EngineStore


def key(network: str, **values: object) -> EngineKey:
    facts: dict[str, object] = {
        "network": network,
        "weights": "a" * 64,
        "dtype": "fp32",
        "shapes": {"batch": "1,4,16", "height": 64, "width": 64, "latent_channels": 4},
        "backend": "onnx",
        "backend_version": backend_version("onnx"),
        "device": device_facts("any"),
    }
    return EngineKey.model_validate({**facts, **values})


GOOD, STALE, OLD = key("denoiser"), key("condition", backend_version="0.1"), key("vae_decoder")


@pytest.fixture()
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineStore:
    """Three engines: a good one, a stale one, and one not used for 40 days."""
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path))
    store = EngineStore()
    for item in (GOOD, STALE, OLD):
        store.obtain(item, lambda folder: (folder / "model.onnx").write_bytes(b"x" * 2048) and None, model="m")
    before = store.folder(OLD).stat().st_mtime - 40 * 86400
    os.utime(store.folder(OLD), (before, before))
    return store


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(["engines", *arguments]) == 0
    return capsys.readouterr().out


def test_list(store: EngineStore, capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys, "list").splitlines()
    rows = {network: line for line in lines for network in ("denoiser", "condition", "vae_decoder") if network in line}
    assert "batch 1,4,16, height 64, width 64" in rows["denoiser"] and rows["denoiser"].split()[-2] == "ok"
    assert "latent_channels" not in rows["denoiser"] and GOOD.digest()[:8] in rows["denoiser"]
    assert "stale: backend_version" in rows["condition"] and "40 d" in rows["vae_decoder"]
    assert lines[-1].startswith("3 engines, ") and lines[-1].endswith(f"in {store.root}")


def test_list_for_programs(store: EngineStore, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, "list", "--json"))
    assert found["folder"] == str(store.root) and found["bytes"] == sum(row["bytes"] for row in found["engines"])
    rows = {row["network"]: row for row in found["engines"]}
    assert rows["denoiser"]["state"] == "ok" and rows["denoiser"]["shapes"] == GOOD.shapes
    assert rows["condition"]["differences"] == [
        {"field": "backend_version", "wanted": backend_version("onnx"), "have": "0.1"}
    ]


def test_an_empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "absent"))
    assert "no engines in" in run(capsys, "list")
    assert json.loads(run(capsys, "list", "--json"))["engines"] == []
    assert json.loads(run(capsys, "prune", "--stale", "--json"))["removed"] == []
    assert not (tmp_path / "absent").exists()


def test_inspect(store: EngineStore, capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "inspect", GOOD.digest()[:8])
    assert f"id: {GOOD.name}" in text and "state: ok" in text and "rebuild" not in text
    assert "\n  weights: " + "a" * 64 in text and "model.onnx 2048" in text
    text = run(capsys, "inspect", STALE.name)
    assert f"backend_version: expected {backend_version('onnx')}, found 0.1" in text
    assert "rebuild: dgkit build-engines m --engine ort --networks condition --dtype fp32 --batch 1,4,16" in text
    found = json.loads(run(capsys, "inspect", "condition", "--json"))
    assert found["side_car"]["key"]["backend_version"] == "0.1" and found["rebuild"].startswith("dgkit build-engines m")


def test_inspect_a_broken_and_an_unknown_one(store: EngineStore, capsys: pytest.CaptureFixture[str]) -> None:
    (store.folder(GOOD) / "engine.json").unlink()
    text = run(capsys, "inspect", "denoiser")
    assert "side-car: expected engine.json, found missing" in text and "stale: side-car" in run(capsys, "list")
    assert main(["engines", "inspect", "nope"]) == 2
    assert capsys.readouterr().err == ("error: 'nope' matches no engine\nhint: dgkit engines list shows the names\n")


def test_prune(store: EngineStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engines", "prune"]) == 2
    assert "--stale, --older-than DAYS" in capsys.readouterr().err
    both = run(capsys, "prune", "--stale", "--older-than", "30", "--dry-run").splitlines()
    assert [line.split()[0] for line in both] == [STALE.name, OLD.name] and len(list(store.root.iterdir())) == 3
    assert run(capsys, "prune", "--older-than", "30").startswith(f"{OLD.name} (ok, ")
    found = json.loads(run(capsys, "prune", "--stale", "--json"))
    assert [row["id"] for row in found["removed"]] == [STALE.name] and found["dry_run"] is False
    assert [path.name for path in store.root.iterdir()] == [GOOD.name]


def test_listing_does_not_load_torch(store: EngineStore) -> None:
    code = "import sys; from dgkit.cli.app import main; code = main(['engines', 'list']); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False" and "denoiser" in result.stdout


def test_sizes_and_ages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [size_text(n) for n in (0, 1023, 1024, 100 << 20, 5 << 40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "100 MiB",
        "5120 GiB",
    ]
    monkeypatch.setattr("time.time", lambda: 1e6)
    assert [_age(1e6 - s) for s in (-5, 59, 60, 7200, 86400 * 3)] == ["0 s", "59 s", "1 min", "2 h", "3 d"]
