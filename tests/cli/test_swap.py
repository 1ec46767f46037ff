"""``dgkit swap`` through the real command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dgkit.cli.app import main
from tests.models import make_micro_model


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("pair")
    return str(make_micro_model(root / "prior")), str(make_micro_model(root / "source", seed=1))


def test_swap(pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["swap", *pair, str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["out"] == str(out) and found["existed"] is False and found["parameters"]["unet"] > 0
    assert main(["swap", *pair, str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out == "" and "already there" in printed.err and f"--model {out}" in printed.err.replace("\n", "")


def test_errors(pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["swap", pair[0], "yurujaja/DGInStyle/ControlNet_UNet-S", str(tmp_path / "out")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "ControlNet_UNet-S/config.json" in lines[0] and "hf download" in lines[1]
    assert main(["swap", pair[0]]) == 2
    assert not list(tmp_path.iterdir())
