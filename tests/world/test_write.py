"""Roles on disk: layouts, independence of the number of workers, resuming, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgkit.errors import OutputError, UsageError
from dgkit.labels import ENCODINGS, PALETTE
from dgkit.world import render, write_role

SMALL = {"height": 48, "width": 96}


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_source_is_laid_out_like_gta(tmp_path: Path) -> None:
    steps: list[tuple[float, float]] = []
    write_role(
        tmp_path / "gta", "source", 3, 7, workers=1, progress=lambda done, total: steps.append((done, total)), **SMALL
    )
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]
    names = ["00001.png", "00002.png", "00003.png"]
    assert sorted(p.name for p in (tmp_path / "gta/images").iterdir()) == names
    assert sorted(p.name for p in (tmp_path / "gta/labels").iterdir()) == names
    scene = render("source", 7, 1, **SMALL)
    with Image.open(tmp_path / "gta/labels/00002.png") as label, Image.open(tmp_path / "gta/images/00002.png") as image:
        assert label.mode == "P" and image.mode == "RGB"
        ids = np.array(label)
        assert (ENCODINGS["cityscapes_ids"].table[ids] == scene.label).all()
        assert set(ids[scene.label == 0]) == {7}
        assert set(ids[scene.label == 255]) <= {0}
        road = np.array(label.convert("RGB"))[scene.label == 0]
        assert (road == PALETTE[0]).all()
        assert np.array_equal(np.array(image), scene.image)


def test_prior_is_an_image_folder(tmp_path: Path) -> None:
    write_role(tmp_path, "prior", 3, 7, workers=1, **SMALL)
    lines = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert [line["file_name"] for line in lines] == [f"images/0000{i}.png" for i in (1, 2, 3)]
    for i, line in enumerate(lines):
        scene = render("prior", 7, i, **SMALL)
        assert (line["text"], line["style"]) == (scene.caption, scene.style)
        assert (tmp_path / line["file_name"]).is_file()
    assert not (tmp_path / "labels").exists()


def test_files_do_not_depend_on_workers(tmp_path: Path) -> None:
    for workers in (1, 2):
        write_role(tmp_path / str(workers), "prior", 4, 1, workers=workers, **SMALL)
    assert files(tmp_path / "1") == files(tmp_path / "2")


def test_a_stopped_run_is_resumed(tmp_path: Path) -> None:
    write_role(tmp_path / "whole", "source", 3, 2, workers=1, **SMALL)
    part = tmp_path / "part"
    write_role(part, "source", 3, 2, workers=1, **SMALL)
    (part / "labels/00002.png").unlink()
    kept = (part / "images/00001.png").stat().st_mtime_ns
    steps: list[tuple[float, float]] = []
    write_role(part, "source", 3, 2, workers=1, progress=lambda done, total: steps.append((done, total)), **SMALL)
    assert steps == [(2, 3), (3, 3)]
    assert (part / "images/00001.png").stat().st_mtime_ns == kept
    assert files(part) == files(tmp_path / "whole")


def test_a_set_can_be_extended(tmp_path: Path) -> None:
    write_role(tmp_path / "a", "prior", 2, 2, workers=1, **SMALL)
    write_role(tmp_path / "a", "prior", 3, 2, workers=1, **SMALL)
    write_role(tmp_path / "b", "prior", 3, 2, workers=1, **SMALL)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_labels_without_pictures(tmp_path: Path) -> None:
    write_role(tmp_path / "whole", "cityscapes", 2, 2, height=48, workers=1)
    write_role(tmp_path / "part", "cityscapes", 2, 2, height=48, workers=1, images=False)
    whole, part = files(tmp_path / "whole"), files(tmp_path / "part")
    assert part == {name: data for name, data in whole.items() if not name.startswith("leftImg8bit")}
    write_role(tmp_path / "part", "cityscapes", 2, 2, height=48, workers=1)  # the pictures are added
    assert files(tmp_path / "part") == whole
    with pytest.raises(UsageError, match="prior has no labels"):
        write_role(tmp_path / "prior", "prior", 1, 2, images=False, **SMALL)


@pytest.mark.parametrize(
    ("change", "word"), [({"seed": 3}, "seed"), ({"role": "prior"}, "role"), ({"height": 64}, "height")]
)
def test_other_settings_are_refused(tmp_path: Path, change: dict[str, object], word: str) -> None:
    arguments: dict[str, object] = {"role": "source", "count": 1, "seed": 2, "workers": 1, **SMALL}
    write_role(tmp_path, **arguments)  # type: ignore[arg-type]
    with pytest.raises(OutputError, match=word):
        write_role(tmp_path, **{**arguments, **change})  # type: ignore[arg-type]


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match="not empty"):
        write_role(tmp_path, "source", 1, 0, workers=1, **SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_with_hidden_files_only_is_empty(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").write_text("x")
    write_role(tmp_path, "source", 1, 0, workers=1, **SMALL)
    assert (tmp_path / "labels/00001.png").is_file()


@pytest.mark.parametrize(
    ("change", "word"), [({"count": 0}, "count"), ({"role": "moon"}, "moon"), ({"seed": -1}, "-1")]
)
def test_wrong_arguments_write_nothing(tmp_path: Path, change: dict[str, object], word: str) -> None:
    arguments: dict[str, object] = {"role": "source", "count": 1, "seed": 2, "workers": 1, **SMALL, **change}
    with pytest.raises(UsageError, match=word):
        write_role(tmp_path / "out", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    write_role(tmp_path, "source", 1, 0, workers=1, **SMALL)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="disk is full"):
        write_role(tmp_path, "source", 2, 0, workers=1, **SMALL)
    monkeypatch.undo()
    write_role(tmp_path, "source", 2, 0, workers=1, **SMALL)
    assert len(list((tmp_path / "labels").iterdir())) == 2
