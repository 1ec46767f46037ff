"""``dgkit engines check`` through the real command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dgkit.cli.app import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(["engines", *arguments]) == 0
    return capsys.readouterr().out


def test_check(micro: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("check", "torch", "torch:bf16", "--model", str(micro), "--networks", "condition")
    found = json.loads(run(capsys, *command, "--json"))
    (row,) = found["outputs"]
    assert found["other"] == "torch:bf16" and row["passed"] and 0 < row["relative"] < row["tolerance"]
    assert " ok " in run(capsys, *command)
    monkeypatch.setattr("dgkit.engines.compare.TOLERANCES", {"fp32": 1e-9, "bf16": 1e-9})
    assert main(["engines", *command]) == 1
    captured = capsys.readouterr()
    assert "too far" in captured.out and "condition of condition: off by" in captured.err


def test_check_refuses_what_it_does_not_know(micro: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("torch", "nope"), ("torch", "torch:int3"), ("torch", "torch", "--networks", "unet")):
        assert main(["engines", "check", *arguments, "--model", str(micro)]) == 2
        assert "known: " in capsys.readouterr().err


def test_check_layers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("check", "torch", "torch:bf16", "--random", "tiny", "--networks", "vae_decoder", "--worst-layer")
    (report,) = json.loads(run(capsys, *command, "--json"))["layers"]
    assert report["network"] == "vae_decoder" and report["compared"] > 10 and report["first"] is None
    assert 0 < report["worst"]["relative"] < 0.05
    capsys.readouterr()
    assert main(["engines", *command]) == 0
    captured = capsys.readouterr()
    assert "worst layer" in captured.out and report["worst"]["output"] in captured.out
    assert captured.err == f"vae_decoder: {report['compared']} layers compared, none beyond the tolerance\n"
    assert main(["engines", "check", "torch", "compile", "--random", "tiny", "--networks", "unet"]) == 2
