"""Graphs in 8 bits for TensorRT: what ModelOpt quantises, the check in ONNX Runtime, and engines built from them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from dgkit.diffusion.loading import model_networks
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.engines import held_out_calls
from dgkit.engines.engine_recipe import EngineRecipe, network_dtype
from dgkit.engines.held_out_calls import HELD_OUT
from dgkit.engines.onnx_export import MODEL, TOLERANCES, graph_key
from dgkit.engines.qdq_graph import load_modelopt, narrow_convolutions, typed_graph, typed_graph_key
from dgkit.engines.sidecar import key_differences
from dgkit.engines.spec import NETWORKS
from dgkit.engines.store import Engine
from dgkit.engines.trt import TrtRunner
from dgkit.errors import EngineError, MissingDependency, UsageError
from dgkit.optional import install_command
from tests.engines.stored import denoiser

onnx: Any = pytest.importorskip("onnx", reason="needs onnx: pip install 'dgkit[cpu]'")
pytest.importorskip("onnxscript", reason="needs onnxscript: pip install 'dgkit[cpu]'")
pytestmark = pytest.mark.usefixtures("short_calibration")
DTYPES = ("int8", "fp8")


@pytest.fixture(params=["int8", pytest.param("fp8", marks=pytest.mark.slow)])
def quantised(request: pytest.FixtureRequest, folder: ModelFolder) -> Engine:
    """Built by the first test that needs it; the store is shared in the session."""
    for package in ("modelopt", "onnxslim", "lief", "onnxconverter_common", "onnx_graphsurgeon"):
        pytest.importorskip(package, reason=f"needs {package}: pip install 'dgkit[modelopt]'")
    return typed_graph(denoiser(folder), request.param)


def test_products_are_quantised_and_the_graph_is_verified(quantised: Engine, folder: ModelFolder) -> None:
    dtype, notes = quantised.key.dtype, quantised.sidecar.notes
    assert {entry.path for entry in quantised.sidecar.files} == {MODEL, HELD_OUT}
    products: Any = notes["products"]
    assert products["quantised"] > 10 and products["other"] > 0
    errors: Any = notes["error"]
    assert 0 < errors["prediction"] < TOLERANCES[dtype] and notes["held_out"] == 20
    graph = onnx.load(str(quantised.file(MODEL))).graph
    zeros = {tensor.name: tensor.data_type for tensor in graph.initializer}
    kinds = {zeros[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"}
    assert kinds == {{"int8": onnx.TensorProto.INT8, "fp8": onnx.TensorProto.FLOAT8E4M3FN}[dtype]}
    scales = {zeros[node.input[1]] for node in graph.node if node.op_type == "DequantizeLinear"}
    assert scales == {onnx.TensorProto.FLOAT16}  # the rest of the graph stays in fp16
    held_out = TrtRunner(denoiser(folder), dtype=dtype, rebuild="never").held_out()
    assert held_out is not None and len(held_out[1]["prediction"]) == 20


def test_engine_is_built_from_the_quantised_graph(quantised: Engine, folder: ModelFolder) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'dgkit[rtx]'")
    pytest.importorskip("polygraphy")
    dtype = quantised.key.dtype
    (engine,) = TrtRunner(denoiser(folder), dtype=dtype).prepare()
    assert engine.key.flags == quantised.key.flags and engine.sidecar.notes["graph"] == quantised.name
    types: Any = engine.sidecar.notes["types"]
    eight_bits = types["quantize"]
    assert eight_bits[dtype] == sum(eight_bits.values()) > 10  # each quantising layer gives 8 bits
    assert types["convolution"].keys() == {"fp16"}


def test_key_names_the_calibration(folder: ModelFolder) -> None:
    network = denoiser(folder)
    int8, fp8 = (typed_graph_key(network, dtype) for dtype in DTYPES)
    assert {item.field for item in key_differences(int8, fp8)} == {"dtype"}
    assert int8.flags["calibration_seed"] == 77 and int8.flags["rest"] == "fp16" and "nvidia-modelopt" in int8.versions
    assert typed_graph_key(network, "fp16") == graph_key(network, "fp16")


def test_error_above_the_tolerance_is_refused(
    quantised: Engine, folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_out_calls, "relative_error", lambda *_: 0.2)
    with pytest.raises(EngineError, match=r"differs from PyTorch by 2\.0e-01 on held-out calls"):
        typed_graph(denoiser(folder), quantised.key.dtype, "always")


def test_failure_of_modelopt_is_one_line(
    quantised: Engine, folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **settings: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(load_modelopt(), "quantize", fail)
    with pytest.raises(EngineError, match=r"ModelOpt cannot quantise the graph to (int8|fp8): first line$"):
        typed_graph(denoiser(folder), quantised.key.dtype, "always")


def test_missing_modelopt_says_what_to_install(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelopt", None)
    with pytest.raises(
        MissingDependency, match="'modelopt' is not installed; it belongs to the extra 'modelopt'"
    ) as caught:
        typed_graph(denoiser(folder), "fp8", "always")
    assert caught.value.hint == install_command("modelopt")


def test_other_networks_keep_wider_numbers(folder: ModelFolder) -> None:
    with pytest.raises(UsageError, match="network 'condition' does not support fp8; only the denoiser does"):
        TrtRunner(model_networks(folder)["condition"], dtype="fp8")
    recipe = EngineRecipe(engine="trt", dtype="fp8", device="cpu")
    chosen = [recipe.choice(name)[1] for name in NETWORKS]
    assert chosen == ["fp32", "fp16", "fp8", "fp32", "fp16"]  # text_encoder, condition, denoiser, vae_encoder, decoder
    assert recipe.choice("vae_decoder", fp16=False)[1] == "fp32"
    assert network_dtype("condition", "trt", "int8") == "fp16"


def test_narrow_convolutions_are_found_by_name(tmp_path: Path) -> None:
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weights = {"narrow": (4, 32, 3, 3), "wide": (32, 32, 3, 3)}
    tensors = [
        helper.make_tensor(name, kind, shape, [0.0] * (shape[0] * shape[1] * 9)) for name, shape in weights.items()
    ]
    nodes = [helper.make_node("Conv", ["x", name], [f"y_{name}"], name=f"conv.{name}") for name in weights]
    value = helper.make_tensor_value_info("x", kind, (1, 32, 8, 8))
    out = [helper.make_tensor_value_info(f"y_{name}", kind, None) for name in weights]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [value], out, tensors)), str(tmp_path / "m.onnx"))
    assert narrow_convolutions(tmp_path / "m.onnx") == [r"^conv\.narrow$"]
