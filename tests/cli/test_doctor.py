"""`dgkit doctor` prints a full report and exits 0, whatever is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from dgkit.cli.doctor import doctor
from dgkit.engines.runner import RUNNERS
from dgkit.errors import OutputError, UsageError

app = typer.Typer()
app.command()(doctor)


def test_report_for_people() -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 0, result.output
    for word in (
        "Machine",
        "processor",
        "memory",
        "onnxruntime",
        "--engine torch",
        "Extras",
        "Fastest engine here",
        "Embedded model",
    ):
        assert word in result.output
    assert all(f"--engine {name}" in result.output for name in RUNNERS if name in ("torch", "ort", "openvino"))


def test_report_for_programs() -> None:
    result = CliRunner().invoke(app, ["--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["versions"]["torch"] and found["cpu"]["cores"] >= 1
    assert {library["engine"] for library in found["libraries"]} == {"torch", "ort", "openvino", "trt", "rtx"}


def test_memory_of_a_model_is_estimated() -> None:
    result = CliRunner().invoke(app, ["--model", "random:tiny", "--dtype", "int8", "--batches", "1,8", "--json"])
    assert result.exit_code == 0, result.output
    memory = json.loads(result.stdout)["memory"]
    assert [run["batch"] for run in memory["runs"]] == [1, 8]
    needs = {need["network"]: need for need in memory["runs"][1]["networks"]}
    assert needs["denoiser"]["dtype"] == "int8" and needs["text_encoder"]["dtype"] == "fp32"
    assert memory["runs"][1]["total"] > needs["denoiser"]["weights"] + needs["denoiser"]["activations"] > 0
    shown = CliRunner().invoke(app, ["--model", "random:tiny", "--batches", "4"]).output
    assert "GPU memory of random:tiny in fp16, estimated" in shown and "--batch 4: " in shown


def test_wrong_settings_of_the_estimate_are_refused() -> None:
    for options, words in (
        (["--batches", "0,2"], "expected positive numbers"),
        (["--dtype", "fp7"], "fp7"),
    ):
        error = CliRunner().invoke(app, ["--model", "random:tiny", *options]).exception
        assert isinstance(error, UsageError) and words in error.message


def test_report_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["--gpu-report", "report.json"])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "report.json").read_text())["check"] is None
    error = CliRunner().invoke(app, ["--gpu-report", str(tmp_path)]).exception
    assert isinstance(error, OutputError) and "is a folder" in error.message
