"""What an engine contains is read from its file, for each backend, without a GPU."""

from __future__ import annotations

import pytest

from dgkit.diffusion.loading import model_networks
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.engines.contents import EngineContents, read_contents
from dgkit.engines.onnx_export import MODEL, export_engine
from dgkit.engines.runner import Runner, runner_class
from dgkit.engines.store import Engine
from dgkit.errors import EngineError
from tests.engines import stored


def engine_of(folder: ModelFolder, engine: str, dtype: str) -> Engine:
    runner: Runner = runner_class(engine)(model_networks(folder)["condition"], dtype=dtype)
    (found,) = runner.prepare()
    return found


def test_a_graph(folder: ModelFolder) -> None:
    for package in ("polygraphy", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"needs {package}: pip install 'dgkit[cpu]'")
    engine = export_engine(model_networks(folder)["condition"], dtype="fp16")
    found = read_contents(engine.folder, engine.sidecar)
    assert found.layers["Conv"] == {"fp16": 8} and sum(found.layers["Mul"].values()) == 7
    assert len(found.lines) == sum(sum(counts.values()) for counts in found.layers.values())
    assert any(line.startswith("Conv fp16 ") for line in found.lines) and found.as_dict().keys() == {"layers", "lines"}


def test_a_compiled_model(folder: ModelFolder) -> None:
    pytest.importorskip("openvino", reason="needs openvino: pip install 'dgkit[cpu]'")
    engine = engine_of(folder, "openvino", "fp32")
    found = read_contents(engine.folder, engine.sidecar)
    assert found.kernels["Convolution"] == {"fp32": 8} and not found.layers


def test_a_tensorrt_engine(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'dgkit[rtx]'")
    monkeypatch.setenv("DGKIT_TRT", "rtx")
    engine = engine_of(folder, "trt", "fp16")
    found = read_contents(engine.folder, engine.sidecar)
    assert found.layers["convolution"] == {"fp16": 8} and found.memory["activations"] > 0
    assert sum(sum(counts.values()) for counts in found.kernels.values()) == len(found.lines) >= 8
    assert found.profiles == [{"label": [[1, 20, 64, 64], [8, 20, 64, 64], [64, 20, 64, 64]]}]


def test_other_engines_and_damaged_files(engine: Engine, folder: ModelFolder) -> None:
    assert read_contents(engine.folder, engine.sidecar.model_copy(update={"key": stored.KEY.model_copy(
        update={"backend": "compile"})})) == EngineContents()  # fmt: skip
    graph = engine.sidecar.model_copy(update={"key": stored.KEY.model_copy(update={"backend": "onnx"})})
    (engine.folder / MODEL).write_bytes(b"not a graph")
    with pytest.raises(EngineError, match="cannot be read: ") as caught:
        read_contents(engine.folder, graph)
    assert "\n" not in caught.value.message and "--rebuild always" in caught.value.hint
    (engine.folder / MODEL).unlink()
    with pytest.raises(EngineError, match="cannot be read: "):
        read_contents(engine.folder, graph)
