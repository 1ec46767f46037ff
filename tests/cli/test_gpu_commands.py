"""Commands of docs/guides/tensorrt.md that need no GPU, and wrong values in them: one line each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dgkit.cli.app import main
from dgkit.engines.timing_caches import cache_name

pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'dgkit[rtx]'")
pytest.importorskip("onnxscript", reason="needs onnxscript: pip install 'dgkit[cpu]'")
BUILD = ["build-engines", "--random", "tiny", "--networks", "condition", "--device", "cpu"]


@pytest.fixture(autouse=True)
def rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGKIT_TRT", "rtx")


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(arguments)
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_engines_for_cards(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run([*BUILD, "--for", "sm89,sm120", "--dtype", "fp16", "--batch", "1,2,4", "--json"], capsys)
    assert code == 0, err
    (row,) = json.loads(out)["networks"]
    assert (row["engine"], row["state"]) == ("trt", "built")
    code, out, _ = run(["engines", "inspect", row["ids"][0], "--json"], capsys)
    assert code == 0 and json.loads(out)["side_car"]["key"]["flags"] == {"targets": "sm89,sm120"}


def test_timing_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "cache"))
    code, _, err = run(["engines", "export-timings", str(tmp_path / "timings")], capsys)
    assert code == 1 and "has no timing cache; TensorRT-RTX needs none" in err
    name = cache_name("trt", "11.4.0", (8, 9))
    (tmp_path / name).write_bytes(bytes(64))
    code, out, _ = run(["engines", "import-timings", str(tmp_path / name)], capsys)
    assert code == 0 and out.strip().endswith(f"engines/.{name}")
    code, out, _ = run(["engines", "export-timings", str(tmp_path / "timings")], capsys)
    assert code == 0 and (tmp_path / "timings" / name).read_bytes() == bytes(64)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--for", "ada"], 2, "--for 'ada'; expected compute capabilities"),
        (["--for", "sm99"], 2, "unknown compute capability sm99"),
        (["--engine", "trt", "--set", "options.targets=[ada]"], 2, "targets"),
        (
            ["--engine", "trt", "--set", "options.version_compatible=true"],
            1,
            "TensorRT-RTX has no option version_compatible",
        ),
        (["--engine", "trt", "--set", "options.weight_budget_gib=-1"], 2, "weight_budget_gib"),
        (["--refit"], 1, "needs a GPU to build engines whose weights can be replaced"),
        (["--engine", "ort", "--dtype", "fp8"], 2, "does not support fp8"),
        (["--engine", "trt", "--dtype", "fp8", "--set", "networks.condition.dtype=fp8"], 2, "only the denoiser does"),
        (["--engine", "ort", "--set", "options.providers=[cuda]"], 2, "providers cuda need a GPU"),
        (["--engine", "ort", "--set", "options.providers=[cudnn]"], 2, "providers"),
    ],
)
def test_wrong_values_are_one_line(
    options: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    networks = ["--networks", "denoiser"] if options[-1] == "fp8" and "ort" in options else []
    found, _, err = run([*BUILD, *networks, *options], capsys)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (found, len(errors)) == (code, 1) and words in errors[0], err
    assert "Traceback" not in err
