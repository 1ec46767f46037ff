"""`dgkit doctor` prints a full report and exits 0, whatever is missing."""

from __future__ import annotations

import json

import typer
from typer.testing import CliRunner

from dgkit.cli.doctor import doctor
from dgkit.engines.runner import RUNNERS

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
