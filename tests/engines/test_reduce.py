"""A graph with one bad node is reduced to the part around it; others pass or are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dgkit.cli.app import main

Capture = pytest.CaptureFixture[str]
for package in ("polygraphy", "onnx_graphsurgeon", "onnxruntime"):
    pytest.importorskip(package, reason=f"needs {package}: pip install 'dgkit[cpu]'")


def write_graph(path: Path, shift: float) -> Path:
    """Write a chain of six nodes; a ``shift`` above 1 makes the argument of its logarithm negative."""
    onnx: Any = pytest.importorskip("onnx")
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    steps = [
        ("Sigmoid", "x", ""),
        ("Relu", "a", ""),
        ("Sub", "b", "shift"),
        ("Log", "c", ""),
        ("Tanh", "d", ""),
        ("Mul", "e", "two"),
    ]
    nodes = [
        make.make_node(op, [name for name in (first, second) if name], ["abcdey"[index]], name=f"node_{op}")
        for index, (op, first, second) in enumerate(steps)
    ]
    ends = [[make.make_tensor_value_info(name, kind, ["rows", 4])] for name in ("x", "y")]
    weights = [make.make_tensor(name, kind, [1], [value]) for name, value in (("shift", shift), ("two", 2.0))]
    model = make.make_model(
        make.make_graph(nodes, "chain", *ends, weights), opset_imports=[make.make_opsetid("", 18)], ir_version=10
    )
    onnx.save(model, path)
    return path


def test_a_failing_graph_is_reduced(tmp_path: Path, capsys: Capture) -> None:
    onnx: Any = pytest.importorskip("onnx")
    graph, out = write_graph(tmp_path / "bad.onnx", 5.0), tmp_path / "part.onnx"
    assert main(["engines", "debug", str(graph), "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["reason"] == "y is not finite" and found["total"] == 6
    assert "Log node_Log" in found["nodes"] and len(found["nodes"]) <= 2
    assert len(onnx.load(out).graph.node) == len(found["nodes"])
    assert main(["engines", "debug", str(graph), "--out", str(out)]) == 0
    assert "2 of 6 nodes fail alone" in capsys.readouterr().err


def test_a_graph_that_passes_writes_nothing(tmp_path: Path, capsys: Capture) -> None:
    graph, out = write_graph(tmp_path / "good.onnx", -1.0), tmp_path / "part.onnx"
    assert main(["engines", "debug", str(graph), "--out", str(out)]) == 0
    assert f"{graph} passes on ort: 6 nodes, nothing to reduce" in capsys.readouterr().err and not out.exists()


def test_bad_input(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "text.onnx").write_text("no graph", encoding="utf-8")
    for arguments, code, words in (
        (("unet",), 2, "unknown network 'unet'; known: "),
        ((str(tmp_path / "text.onnx"),), 1, "text.onnx is not a usable ONNX graph: "),
        ((str(tmp_path / "absent.onnx"),), 1, "absent.onnx is not a usable ONNX graph: "),
        ((str(tmp_path / "text.onnx"), "--engine", "compile"), 2, "engine 'compile' takes no ONNX graphs"),
    ):
        assert main(["engines", "debug", *arguments, "--random", "tiny"]) == code
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 2 and "hint: " in said
