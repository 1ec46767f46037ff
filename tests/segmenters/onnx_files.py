"""Tiny ONNX networks with known predictions: they recognise the colours of the palette."""

from pathlib import Path

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

from dgkit.labels import PALETTE
from dgkit.taxonomies import CITYSCAPES19, Taxonomy

OPSET = 18


def palette_model(
    path: Path,
    *,
    stride: int = 1,
    size: tuple[int, int | None] | None = None,
    multiple_of: int = 16,
    sidecar: bool = True,
    sharpness: float = 1.0,  # factor on the logits
    half: bool = False,  # input and logits in fp16
    batch: int | None = None,  # fixed batch size
    bias_of_wall: float | None = None,  # NaN or infinity, as in damaged weights
    taxonomy: Taxonomy = CITYSCAPES19,
    states: bool = True,  # the side-car states another taxonomy than the default
) -> Path:
    """Write a network with logits [N,K,h,w], where the nearest palette colour wins; ``features``: mean logits."""
    # |x - c|^2 = |x|^2 - 2 x c + |c|^2: a 1x1 convolution ranks the colours.
    colours = taxonomy.palette.astype(np.float32) / 255
    weights = (sharpness * 2 * colours)[:, :, None, None]
    nodes = [
        helper.make_node("Conv", ["image", "weights", "bias"], ["logits"], kernel_shape=[1, 1], strides=[stride] * 2),
        helper.make_node("ReduceMean", ["logits", "axes"], ["features"], keepdims=0),
    ]
    bias = -sharpness * (colours**2).sum(1)
    if bias_of_wall is not None:
        bias[3] = bias_of_wall
    constants = {
        "weights": weights.astype(np.float32), "bias": bias.astype(np.float32), "axes": np.array([2, 3], np.int64)
    }  # fmt: skip
    outputs = {"logits": ["n", taxonomy.size, None, None], "features": ["n", taxonomy.size]}
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    constants = {
        name: value.astype(np.float16) if half and name != "axes" else value for name, value in constants.items()
    }
    _save(path, nodes, constants, size, outputs, kind, input_kind=kind, batch=batch)
    if sidecar:
        own = {} if taxonomy.is_default else {"classes": list(taxonomy.names)}
        own |= {"taxonomy": taxonomy.document()} if own and states else {}
        _sidecar(path, features="features", multiple_of=multiple_of, **own)
    return path


def label_model(path: Path) -> Path:
    """Write a network that returns class numbers, int64 [N,H,W]."""
    colours = PALETTE.astype(np.float32) / 255
    nodes = [
        helper.make_node("Conv", ["image", "weights", "bias"], ["logits"], kernel_shape=[1, 1]),
        helper.make_node("ArgMax", ["logits"], ["labels"], axis=1, keepdims=0),
    ]
    constants = {"weights": (2 * colours)[:, :, None, None], "bias": -(colours**2).sum(1)}
    _save(path, nodes, constants, None, {"labels": ["n", None, None]}, TensorProto.INT64)
    _sidecar(path)
    return path


def style_model(path: Path) -> Path:
    """Write a style classifier: bright images are snowy, dark ones night."""
    weights = np.zeros((6, 3, 1, 1), np.float32)
    weights[1], weights[4] = 1, -1
    nodes = [
        helper.make_node("Conv", ["image", "weights", "bias"], ["maps"], kernel_shape=[1, 1]),
        helper.make_node("ReduceMean", ["maps", "axes"], ["logits"], keepdims=0),
    ]
    bias = np.array([-9, -1.5, -9, -9, 1.5, -9], np.float32)
    constants = {"weights": weights, "bias": bias, "axes": np.array([2, 3], np.int64)}
    _save(path, nodes, constants, None, {"logits": ["n", 6]})
    _sidecar(path, size=16)
    return path


def externalize(path: Path, *, one_file: bool = True, folder: str = "") -> None:
    """Move the weights of an ONNX file out of it, into one file or one for each tensor."""
    model = onnx.load(path)
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    for number, tensor in enumerate(weights):
        location = f"{folder}{path.name}.data" if one_file else f"{folder}tensor{number}"
        (path.parent / location).parent.mkdir(exist_ok=True)
        onnx.external_data_helper.set_external_data(tensor, location)
    onnx.save(model, path)


def _sidecar(path: Path, **values: object) -> None:
    facts = {"mean": [0.0] * 3, "std": [1.0] * 3, **values}
    path.with_suffix(".yaml").write_text(yaml.safe_dump(facts), encoding="utf-8")


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    size: tuple[int, int | None] | None,
    outputs: dict[str, list[str | int | None]],
    kind: int = TensorProto.FLOAT,
    *,
    input_kind: int = TensorProto.FLOAT,
    batch: int | None = None,
) -> None:
    height, width = size or ("height", "width")
    image = helper.make_tensor_value_info("image", input_kind, [batch or "n", 3, height, width])
    graph = helper.make_graph(
        nodes,
        "known",
        [image],
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
