"""``dgkit stats`` through the real command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dgkit.cli.app import main
from tests.data.trees import write_ids, write_many
from tests.models import make_micro_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    car = np.full((100, 100), 255, np.uint8)
    car[:80] = 0
    car[:10, :20] = 13
    write_ids(tmp_path / "maps" / "a.png", car)
    write_ids(tmp_path / "maps" / "b.png", np.full((100, 100), 2, np.uint8))
    return tmp_path / "maps"


def test_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", "--labels", str(folder), "--size", "100", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["files"] == 2 and found["pixels"] == 20_000 and found["ignored_share"] == pytest.approx(0.1)
    rows = {row["name"]: row for row in found["classes"]}
    assert len(rows) == 19
    assert rows["road"]["pixels"] == 7800 and rows["car"]["pixels"] == 200
    assert rows["building"]["share"] == pytest.approx(10_000 / 18_000)
    assert rows["car"]["eligible_files"] == 1 and rows["car"]["probability"] == pytest.approx(1, abs=1e-6)
    assert rows["train"]["files"] == rows["train"]["probability"] == 0


def test_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", "--labels", str(folder), "--workers", "2"]) == 0
    text = capsys.readouterr().out
    assert "2 label maps" in text and "7,800" in text and "20,000 pixels" in text and "traffic" in text


def test_crops_of_a_model_are_those_of_generate(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_micro_model(tmp_path / "model", defaults={"label_height": 50})

    def found(*options: str) -> dict[str, Any]:
        assert main(["stats", "--labels", str(folder), *options, "--json"]) == 0
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    default = found()  # the embedded model scales these maps of 100 pixels to its 256
    assert (default["crop"], default["label_scale"], default["pixels"]) == ([100, 100], 1.0, 20_000)
    embedded = found("--model", "embedded")
    assert (embedded["crop"], embedded["label_scale"]) == ([256, 256], 2.56)
    for a, b in zip(default["classes"], embedded["classes"], strict=True):
        assert (a["probability"], a["eligible_files"]) == (
            pytest.approx(b["probability"], rel=0.02),
            b["eligible_files"],
        )
    assert found("--size", "512")["eligible_above"] == 3000
    own = found("--model", str(model))  # images of 64 pixels
    assert (own["crop"], own["label_scale"]) == ([64, 64], 0.64)
    wide = found("--model", str(model), "--size", "25x50")
    assert (wide["crop"], wide["label_scale"]) == ([25, 50], 0.5)
    assert found("--model", str(model), "--label-scale", "0.25")["label_scale"] == 0.25
    assert main(["stats", "--labels", str(folder), "--size", "big"]) == 2
    assert "HEIGHTxWIDTH" in capsys.readouterr().err


def test_a_data_set_with_split_and_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_many(tmp_path / "camvid", ["trainannot/a.png", "valannot/b.png", "valannot/c.png"])
    cache = tmp_path / "counts.npz"
    command = ["stats", "--dataset", f"camvid={root}", "--split", "val", "--cache", str(cache), "--json"]
    outputs = []
    for _ in range(2):
        assert main(command) == 0
        outputs.append(json.loads(capsys.readouterr().out))
    assert outputs[0] == outputs[1] and outputs[0]["files"] == 2 and outputs[0]["classes"][10]["pixels"] == 48
    assert cache.is_file()


def test_maps_without_any_labelled_pixel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_ids(tmp_path / "a.png", np.full((4, 4), 255, np.uint8))
    assert main(["stats", "--labels", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ignored_share"] == 1 and all(row["probability"] == 0 for row in found["classes"])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "one of --labels and --dataset"),
        (["--dataset", "gta"], 2, "is not NAME=DIR"),
        (["--dataset", "kitti=."], 2, "unknown data set 'kitti'"),
        (["--labels", "absent"], 1, "no such folder"),
        (["--labels", "empty"], 1, "no PNG files"),
        (["--labels", "maps", "--label-scale", "0"], 2, "label scale 0"),
        (["--labels", "maps", "--size", "0"], 2, "crop size 0"),
    ],
)
def test_mistakes(
    arguments: list[str],
    code: int,
    words: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder.parent / "empty").mkdir()
    monkeypatch.chdir(folder.parent)
    assert main(["stats", *arguments]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and words in lines[0] and lines[0].startswith("error: ") and lines[1].startswith("hint: ")


def test_maps_that_cannot_be_read_end_in_two_lines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_ids(folder / "c.png", np.array([[7, 26]]))
    assert main(["-q", "stats", "--labels", str(folder)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "c.png: unknown ids 26" in lines[0] and "--encoding cityscapes_ids" in lines[1]
