"""Graphs in each precision: strongly typed, norms in fp32, compared with PyTorch; the module is not changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dgkit.diffusion.loading import model_networks
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.engines import onnx_export as export
from dgkit.engines.onnx_export import MODEL, OPSET, example_inputs, export_engine, graph_key, relative_error, run_graph
from dgkit.engines.runner import DTYPES
from dgkit.engines.spec import NETWORKS
from dgkit.engines.typed import typed_copy, write_fp32_graph
from dgkit.errors import EngineError, UsageError

onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'dgkit[cpu]'")
pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'dgkit[cpu]'")
pytest.importorskip("onnxscript", reason="needs onnxscript: pip install 'dgkit[cpu]'")

FLOATS = {"fp32": onnx.TensorProto.FLOAT, "fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}
NORMS = ("InstanceNormalization", "GroupNormalization", "LayerNormalization")
QUICK = [("vae_encoder", "fp16"), ("text_encoder", "bf16")]
CASES = [
    pytest.param(name, dtype, marks=() if (name, dtype) in QUICK else pytest.mark.slow)
    for name in NETWORKS
    for dtype in ("fp16", "bf16")
]


def types(path: Path) -> tuple[dict[str, int], Any]:
    """Return the element type of each tensor of a graph by name, and the graph with inferred shapes."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True).graph
    found = {item.name: item.type.tensor_type.elem_type for item in (*graph.value_info, *graph.input, *graph.output)}
    return found | {item.name: item.data_type for item in graph.initializer}, graph


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_graphs_are_strongly_typed(folder: ModelFolder, name: str, dtype: str) -> None:
    network = model_networks(folder)[name]
    before = {key: value.clone() for key, value in network.load().state_dict().items()}
    engine = export_engine(network, dtype=dtype)
    assert engine.key == graph_key(network, dtype) and {"model.onnx.data", MODEL} == {
        f.path for f in engine.sidecar.files
    }
    kinds, graph = types(engine.file(MODEL))
    for item in (*graph.input, *graph.output):
        assert kinds[item.name] in (FLOATS[dtype], onnx.TensorProto.INT64)
    counted = dict.fromkeys((*NORMS, "Conv", "MatMul", "Gemm"), 0)
    for node in graph.node:
        if node.op_type in counted:
            counted[node.op_type] += 1
            wanted = FLOATS["fp32"] if node.op_type in NORMS else FLOATS[dtype]
            assert {kinds[key] for key in node.input if key} == {wanted}, node.name
    norms = sum(counted[kind] for kind in NORMS)
    assert norms > 0 or name == "condition"
    assert counted["Conv"] + counted["MatMul"] > 0
    errors = engine.sidecar.notes["error"]
    assert isinstance(errors, dict) and set(errors) == {spec.name for spec in network.spec.outputs}
    assert all(isinstance(error, float) and 0 < error < export.TOLERANCES[dtype] for error in errors.values())
    assert engine.sidecar.notes["checked"] == ("fp16" if dtype == "fp16" else "fp32 copy")
    assert str(Path(torch.__file__).parent).encode() not in engine.file(MODEL).read_bytes()  # no paths of this machine
    after = network.load().state_dict()
    assert all(torch.equal(value, after[key]) and value.dtype == after[key].dtype for key, value in before.items())


def test_precision_is_part_of_the_key(folder: ModelFolder) -> None:
    network = model_networks(folder)["condition"]
    keys = {graph_key(network, dtype).digest() for dtype in DTYPES} | {graph_key(network, opset=20).digest()}
    assert len(keys) == 4 and graph_key(network) == graph_key(network, "fp32", OPSET)
    for settings, words in (({"dtype": "fp8"}, "known: fp32"), ({"opset": 3}, "allowed: 18 to 23")):
        with pytest.raises(UsageError, match=words):
            export_engine(network, **settings)  # type: ignore[arg-type]


def test_opset(folder: ModelFolder) -> None:
    engine = export_engine(model_networks(folder)["condition"], opset=20)
    (found,) = onnx.load(engine.file(MODEL), load_external_data=False).opset_import
    assert found.version == 20 and engine.key.graph == {"opset": 20}


def test_the_fp32_copy_of_a_bf16_graph_shows_its_weights(folder: ModelFolder, tmp_path: Path) -> None:
    network = model_networks(folder)["condition"]
    graph = export_engine(network, dtype="bf16").file(MODEL)
    wide = write_fp32_graph(graph, tmp_path / MODEL)
    kinds, _ = types(wide)
    assert FLOATS["bf16"] not in kinds.values() and FLOATS["bf16"] in types(graph)[0].values()
    rounded = network.load()
    for value in rounded.parameters():
        value.data = value.data.bfloat16().float()
    inputs = example_inputs(network)
    with torch.no_grad():
        expected = rounded(*inputs.values()).numpy()
    assert relative_error(run_graph(wide, inputs)["condition"], expected) < 1e-5


def test_a_graph_above_the_tolerance_is_not_kept(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path))
    monkeypatch.setitem(export.TOLERANCES, "bf16", 1e-4)
    with pytest.raises(EngineError, match="output condition of the ONNX file differs from PyTorch by"):
        export_engine(model_networks(folder)["condition"], dtype="bf16")
    assert not list((tmp_path / "engines").iterdir())


def test_a_graph_that_is_not_valid_is_not_kept(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def damage(path: str) -> None:
        raise onnx.checker.ValidationError(f"{Path(path).name} is damaged\nin many lines")

    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(onnx.checker, "check_model", damage)
    with pytest.raises(EngineError, match=r"exported to ONNX: model\.onnx is damaged$"):
        export_engine(model_networks(folder)["condition"])
    assert not list((tmp_path / "engines").iterdir())


def test_a_graph_that_does_not_run_is_not_kept(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(export, "_export", lambda network, module, path, opset: path.write_bytes(b"no graph"))
    with pytest.raises(EngineError, match="condition: ONNX Runtime cannot run the graph"):
        export_engine(model_networks(folder)["condition"])
    assert not list((tmp_path / "engines").iterdir())


def test_norms_of_large_values_stay_finite() -> None:
    group = typed_copy(nn.Sequential(nn.GroupNorm(2, 4), nn.LayerNorm(8)), torch.float16)
    value = 30000 * torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-2, 2).half()
    found = group(value)
    exact = nn.Sequential(nn.GroupNorm(2, 4), nn.LayerNorm(8))(value.float())
    assert found.dtype == torch.float16
    assert relative_error(found.detach().numpy(), exact.detach().numpy()) < 1e-3
    assert np.isfinite(found.detach().numpy()).all()


def test_in_fp32_a_copy_shares_the_weights() -> None:
    module = nn.Sequential(nn.Conv2d(2, 2, 1), nn.GroupNorm(1, 2))
    shared, rounded = typed_copy(module, torch.float32), typed_copy(module, torch.bfloat16)
    assert shared[0].weight.data_ptr() == module[0].weight.data_ptr() and type(shared[1]) is nn.GroupNorm
    assert rounded[0].weight.dtype == torch.bfloat16 and module[0].weight.dtype == torch.float32
    assert not shared[0].weight.requires_grad and module[0].weight.requires_grad
