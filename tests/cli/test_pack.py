"""``dgkit pack`` and ``dgkit generate --format`` through the real command line."""

import json
import tarfile
from pathlib import Path

import pytest

from dgkit.cli.app import main
from tests.generated import make_generated
from tests.scenes import FAST_FLAGS


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return make_generated(tmp_path / "out", 3)


def test_generate_describes_and_packs(
    micro: Path, labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scenes"
    command = ["generate", str(out), "--labels", str(labels), "--model", str(micro), "--count", "2", *FAST_FLAGS]
    assert main([*command, "--format", "webdataset"]) == 0
    assert "2 scenes in 1 file" in capsys.readouterr().err
    with tarfile.open(out / "webdataset" / "train-000000.tar") as shard:
        assert len(shard.getnames()) == 6
    found = json.loads((out / "dataset.json").read_text())
    assert found["images"] == 2 and sum(entry["source_pixels"] for entry in found["classes"]) > 0
    # The same command again changes no image, label or shard.
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert main([*command, "--format", "webdataset"]) == 0
    changed = [path.name for path, time in times.items() if path.stat().st_mtime_ns != time]
    assert set(changed) <= {"pack.json", "SHA256SUMS"}


def test_unknown_format_is_refused_before_any_image_is_made(
    labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(tmp_path / "out"), "--labels", str(labels), "--format", "zip"]) == 2
    assert "unknown format 'zip'" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_pack_reports_what_it_wrote(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["pack", str(out), str(tmp_path / "dest"), "--format", "webdataset", "--shard-size", "0.015", "--json"]
    assert main(command) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert (found["images"], found["files"], found["written"], found["continued"]) == (3, 3, 3, 0)
    assert "3 scenes in 3 files" in captured.err and "SHA256SUMS" in captured.err
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["continued"] == 3


def test_pack_refuses_other_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", str(tmp_path), str(tmp_path / "dest")]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert "is not a folder of dgkit generate" in error and hint == "hint: pass a folder that dgkit generate wrote"
