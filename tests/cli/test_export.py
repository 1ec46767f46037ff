"""``dgkit export networks`` through the real command line."""

import json
from pathlib import Path

import pytest

from dgkit.cli.app import main
from dgkit.engines.sidecar import SIDECAR

Capture = pytest.CaptureFixture[str]
TINY = ("--random", "tiny", "--networks", "condition")


def test_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'dgkit[cpu]'")
    pytest.importorskip("onnxscript", reason="needs onnxscript: pip install 'dgkit[cpu]'")
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "cache"))
    command = ["export", str(tmp_path / "out"), *TINY]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (row,) = found["networks"]
    assert (found["dtype"], found["opset"]) == ("fp32", 18) and row["error"]["condition"] < 1e-5
    assert row["inputs"] == [{"name": "label", "shape": ["batch", 20, 64, 64], "dtype": "fp32"}]
    graph = onnx.load(row["file"])
    shape = [dim.dim_param or dim.dim_value for dim in graph.graph.input[0].type.tensor_type.shape.dim]
    assert [item.name for item in graph.graph.input] == ["label"] and shape[1:] == [20, 64, 64] and shape[0]
    names = {path.name for path in (tmp_path / "out" / "condition").iterdir()}
    assert {"model.onnx", SIDECAR, "tensorrt.sh"} <= names and not list((tmp_path / "out").glob(".*"))
    assert main([*command, "--rebuild", "never"]) == 0  # once more over the first
    assert "label [batch, 20, 64, 64]" in " ".join(capsys.readouterr().out.split())

    (tmp_path / "mine" / "condition").mkdir(parents=True)
    assert main(["export", str(tmp_path / "mine"), *TINY]) == 1
    assert "is not an exported engine" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--dtype", "int8"), 2, "unknown dtype 'int8'"),
        (("--opset", "7"), 2, "opset 7; allowed: 18 to "),
        (("--networks", "unet"), 2, "unknown network 'unet'"),
        (("a", "b"), 2, "expected [MODEL] OUT, got 3 arguments"),
        (("--rebuild", "never"), 1, "there is no onnx engine in fp32 for the text_encoder"),
    ],
)
def test_networks_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, arguments: tuple[str, ...], code: int, words: str
) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "cache"))
    assert main(["export", *arguments, str(tmp_path / "out"), "--random", "tiny"]) == code
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()
