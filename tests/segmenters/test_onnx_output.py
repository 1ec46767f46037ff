"""Inputs that an ONNX segmenter may have, and the output that is read among several."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import TensorProto, helper

from dgkit.errors import DgkitError, EngineError, InputError, UsageError
from dgkit.labels import CLASSES, IGNORE, NUM_CLASSES, PALETTE
from dgkit.segmenters.onnx import open_onnx_segmenter
from dgkit.segmenters.onnx_output import OnnxOutput, choose_output
from dgkit.segmenters.opening import open_segmenter
from dgkit.segmenters.segmenter_sidecar import SegmenterSideCar
from tests.segmenters.onnx_files import label_model, palette_model

pytest.importorskip("onnxruntime")
ENGINES = ["ort", "openvino"]
LABEL = np.kron(np.arange(16).reshape(4, 4), np.ones((8, 8), int)).astype(np.uint8)
IMAGES = torch.from_numpy(PALETTE[LABEL]).permute(2, 0, 1)[None]


def edited(path: Path, edit: Callable[[onnx.GraphProto], None]) -> Path:
    """Change the graph of an ONNX file."""
    model = onnx.load(path)
    edit(model.graph)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def with_input(path: Path, kind: int) -> Path:
    """Change the type of the input; a cast to float follows."""

    def edit(graph: onnx.GraphProto) -> None:
        graph.input[0].type.tensor_type.elem_type = kind
        graph.node[0].input[0] = "floats"
        graph.node.insert(0, helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT))

    return edited(path, edit)


def with_confidence(path: Path, *, first: bool = True) -> Path:
    """Add the confidence [N,1,H,W], before or after the logits."""

    def edit(graph: onnx.GraphProto) -> None:
        graph.node.append(helper.make_node("Softmax", ["logits"], ["p"], axis=1))
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([1], np.int64), "channels"))
        graph.node.append(helper.make_node("ReduceMax", ["p", "channels"], ["confidence"], keepdims=1))
        info = helper.make_tensor_value_info("confidence", TensorProto.FLOAT, [None, 1, None, None])
        graph.output.insert(0 if first else len(graph.output), info)

    return edited(path, edit)


def predicted(path: Path, engine: str) -> np.ndarray:
    """Return the train ids by both ways of running a file, which must agree."""
    with open_segmenter(path, engine, device="cpu") as opened:
        found = opened.classes[opened.logits(IMAGES)[0].argmax(0).numpy()]
    if engine == "ort":
        assert np.array_equal(open_onnx_segmenter(path).predict(PALETTE[LABEL]).label, found)
    return found


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.FLOAT])
def test_inputs_of_floats(engine: str, kind: int, tmp_path: Path) -> None:
    pytest.importorskip({"ort": "onnxruntime", "openvino": "openvino"}[engine])
    path = palette_model(tmp_path / "m.onnx")
    if kind != TensorProto.FLOAT:
        with_input(path, kind)
    assert np.array_equal(predicted(path, engine), LABEL)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (TensorProto.UINT8, "uint8"),
        (TensorProto.INT8, "int8"),
        (TensorProto.BFLOAT16, "bfloat16"),
        (TensorProto.INT32, "int32"),
        (TensorProto.INT64, "int64"),
    ],
)
def test_other_inputs_are_refused(engine: str, kind: int, name: str, tmp_path: Path) -> None:
    pytest.importorskip({"ort": "onnxruntime", "openvino": "openvino"}[engine])
    path = with_input(palette_model(tmp_path / "m.onnx"), kind)
    with pytest.raises(InputError, match=f"takes images of {name}; allowed: float32, float16, float64"):
        open_segmenter(path, engine, device="cpu")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("first", [True, False])
def test_a_confidence_is_not_taken_for_classes(engine: str, first: bool, tmp_path: Path) -> None:
    pytest.importorskip({"ort": "onnxruntime", "openvino": "openvino"}[engine])
    path = with_confidence(palette_model(tmp_path / "m.onnx"), first=first)
    assert np.array_equal(predicted(path, engine), LABEL)
    with open_segmenter(path, engine, device="cpu") as opened:
        assert opened.facts()["output"] == "logits"
        assert opened.notes == ("output 'logits' is read, not 'confidence'",)


def test_the_side_car_names_the_output(tmp_path: Path) -> None:
    path = with_confidence(palette_model(tmp_path / "m.onnx", sidecar=False))

    def sidecar(**values: Any) -> None:
        path.with_suffix(".yaml").write_text(yaml.safe_dump({"mean": [0] * 3, "std": [1] * 3, **values}))

    sidecar(output="logits")
    assert np.array_equal(predicted(path, "ort"), LABEL)
    sidecar(output="confidence")
    with open_segmenter(path, device="cpu") as opened, pytest.raises(InputError, match="holds values such as 0"):
        opened.logits(IMAGES)
    for wrong in ("nothing", "features"):
        sidecar(output=wrong)
        with pytest.raises(InputError, match=f"names the output '{wrong}'; m.onnx has the maps 'confidence' float32"):
            open_segmenter(path, device="cpu")


def out(name: str, *sizes: int | None, dtype: str = "float32") -> OnnxOutput:
    return OnnxOutput(name, sizes or None, dtype)


@pytest.mark.parametrize(
    ("outputs", "name"),
    [
        ([out("x", 1, 19, None, None)], "x"),
        ([out("x")], "x"),
        ([out("x", None, 7, None, None)], "x"),  # the only map: another number of channels is an error when it runs
        ([out("conf", None, None, None), out("x", None, 19, None, None)], "x"),
        ([out("features", None, 64, None, None), out("x", None, 19, None, None)], "x"),
        ([out("features", None, 64, None, None), out("x", None, None, None, None)], "x"),
        ([out("aux", None, 19, None, None), out("out", None, 19, None, None)], "out"),
        ([out("probabilities", None, 19, None, None), out("Logits", None, 19, None, None)], "Logits"),
        ([out("conf", None, 1, None, None), out("x", None, 1, None, None, dtype="int64")], "x"),
        ([out("conf", None, None, None), out("x", None, None, None, dtype="uint8")], "x"),
        ([out("label", None, None, None, dtype="int64"), out("x", None, 19, None, None)], "x"),
    ],
)
def test_the_output_is_chosen_by_shape_and_name(outputs: list[OnnxOutput], name: str) -> None:
    assert choose_output(Path("m.onnx"), outputs, SegmenterSideCar(), NUM_CLASSES).name == name


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (
            [out("a", None, 19, None, None), out("b", None, 19, None, None)],
            "several of them may be logits of 19 classes",
        ),
        ([out("a", None, None, None), out("b", None, 1, None, None)], "none of them may be logits of 19 classes"),
        ([out("a", None, 64, None, None), out("b", None, 32, None, None)], "none of them may be logits of 19 classes"),
        ([out("a", None, 19)], "none is a map"),
        ([out("a", None, 19, None, None, dtype="bfloat16")], "gives 'a' as bfloat16; allowed: float32"),
        ([out("a", None, None, None, dtype="bool")], "gives 'a' as bool"),
    ],
)
def test_refused_outputs(outputs: list[OnnxOutput], message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose_output(Path("m.onnx"), outputs, SegmenterSideCar(), NUM_CLASSES)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    path = palette_model(tmp_path / "m.onnx", bias_of_wall=value)
    message = r"m\.onnx: output 'logits' is NaN or infinite for a\.png"
    segmenter = open_onnx_segmenter(path)
    with pytest.raises(EngineError, match=message):
        segmenter.image_logits(PALETTE[LABEL], "a.png")
    with pytest.raises(EngineError, match="NaN or infinite for a"):
        segmenter.predict(PALETTE[LABEL], "a.png")
    with open_segmenter(path, device="cpu") as opened, pytest.raises(EngineError, match=message):
        opened.check_finite(opened.logits(IMAGES), ["a.png"])


def test_class_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = label_model(tmp_path / "l.onnx")

    def edit(graph: onnx.GraphProto) -> None:
        graph.node[-1].output[0] = "numbers"
        graph.node.append(helper.make_node("Cast", ["numbers"], ["floats"], to=TensorProto.FLOAT))
        graph.node.append(helper.make_node("Div", ["floats", "floats"], ["ones"]))  # road, number 0, becomes NaN
        graph.node.append(helper.make_node("Mul", ["floats", "ones"], ["labels"]))
        graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT

    edited(path, edit)
    with pytest.raises(EngineError, match=r"output 'labels' is NaN or infinite for a\.png"):
        open_onnx_segmenter(path).predict(PALETTE[LABEL], "a.png")
    with open_segmenter(path, device="cpu") as opened, pytest.raises(EngineError, match="infinite for b"):
        opened.check_finite(opened.logits(IMAGES), ["b.png"])


@pytest.mark.parametrize("engine", ENGINES)
def test_class_numbers_of_void_are_no_class(engine: str, tmp_path: Path) -> None:
    pytest.importorskip({"ort": "onnxruntime", "openvino": "openvino"}[engine])
    path = label_model(tmp_path / "l.onnx")
    names = ["void" if name in ("sky", "road") else name for name in CLASSES]
    path.with_suffix(".yaml").write_text(yaml.safe_dump({"classes": names, "mean": [0] * 3, "std": [1] * 3}))
    void = np.isin(LABEL, [CLASSES.index("sky"), CLASSES.index("road")])
    assert np.array_equal(predicted(path, engine), np.where(void, IGNORE, LABEL))
    path.with_suffix(".yaml").write_text(yaml.safe_dump({"classes": names[:10], "mean": [0] * 3, "std": [1] * 3}))
    with open_segmenter(path, engine, device="cpu") as opened, pytest.raises(InputError, match="stand for none"):
        opened.logits(IMAGES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("multiple_of: 1000000000", "multiple_of=1000000000 is not allowed"),
        ("multiple_of: many", "multiple_of='many' is not allowed"),
        ("multiple_of: true", "true and false are not numbers"),
        ("multiple_of: [32]", "multiple_of=.* is not allowed"),
        ("size: 0", "size=0 is not allowed"),
        ("mean: 0.5", "mean=0.5 is not allowed"),
        ("mean: [0, 0]", "is not allowed|is required"),
        ("mean: [.nan, 0, 0]", "mean.0=nan is not allowed"),
        ("std: [1, 0, 1]", "std.1=0 is not allowed"),
        ("std: [1, .inf, 1]", "std.1=inf is not allowed"),
        ("classes: []", "classes=.* is not allowed"),
        ("classes: road", "classes='road' is not allowed"),
        ("classes: {0: road}", "classes=.* is not allowed"),
        ("output: [a]", "output=.* is not allowed"),
        ("features: {}", "features=.* is not allowed"),
        ("outputs: a", "unknown key 'outputs'"),
        ("- mean", "contains a list"),
        ("mean: [", "is not valid YAML"),
    ],
)
def test_side_cars_with_wrong_values(content: str, message: str, tmp_path: Path) -> None:
    path = palette_model(tmp_path / "m.onnx")
    path.with_suffix(".yaml").write_text(content)
    with pytest.raises((UsageError, InputError), match=message) as caught:
        open_segmenter(path, device="cpu")
    assert isinstance(caught.value, DgkitError) and "m.yaml" in str(caught.value) and caught.value.hint


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_side_cars_with_a_byte_order_mark(encoding: str, tmp_path: Path) -> None:
    path = palette_model(tmp_path / "m.onnx")
    path.with_suffix(".yaml").write_text("mean: [0, 0, 0]\nstd: [1, 1, 1]\n", encoding=encoding)
    assert np.array_equal(predicted(path, "ort"), LABEL)
