"""``dgkit world`` through the real command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dgkit.cli.app import main
from dgkit.data.datasets import open_dataset
from tests.scenes import snapshot


def test_world_writes_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "city"
    command = ["world", str(out), "--count", "2", "--height", "48", "--width", "96", "--workers", "1", "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["count"] == 2
    assert len(list((out / "images").iterdir())) == len(list((out / "labels").iterdir())) == 2
    assert main([*command, "--seed", "4"]) == 1
    message = capsys.readouterr().err
    assert "seed 0, not 4" in message and "hint:" in message and "Traceback" not in message


def test_world_explains_a_wrong_role(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["world", str(tmp_path / "city"), "--role", "moon"]) == 2
    assert "source, prior" in capsys.readouterr().err


@pytest.mark.parametrize(("role", "name"), [("darkzurich", "dark_zurich"), ("bdd", "bdd100k"), ("source", "gta")])
def test_roles_have_the_names_of_data_sets_too(tmp_path: Path, role: str, name: str) -> None:
    """What one name writes, the other resumes, and both open as a data set."""
    size = ["--count", "1", "--height", "48", "--width", "96", "--workers", "1"]
    assert main(["world", str(tmp_path / "a"), "--role", role, *size]) == 0
    before = snapshot(tmp_path / "a")
    assert main(["world", str(tmp_path / "a"), "--role", name, *size]) == 0
    assert snapshot(tmp_path / "a") == before
    split = open_dataset(name, tmp_path / "a", "all")
    assert len(split.samples) == 1
    if role != "source":
        assert open_dataset(role, tmp_path / "a", "all") == split
