"""Graph rewrites that OpenVINO's own passes do not perform. They change results only by rounding."""

from typing import Any

import numpy as np

from dgkit.optional import require

_PIXELS = [1, 2, 3]  # axes: channel, row, column


def join_norms(model: Any) -> int:
    """Replace every group norm of one group in ``model`` by a norm over [C, H, W]; return their number.

    ``model`` is an ``openvino.Model`` and is changed in place.
    ONNX expresses them as an instance norm of [N, 1, C*H*W]. OpenVINO keeps images channels-last, so each flattening
    costs a reordering to channels-first and back: a quarter of the time of the embedded model's decoder.
    """
    operations = require("openvino", "cpu").opset13
    joined = 0
    for node in model.get_ops():
        found = _flattened(node)
        if found is None:
            continue
        image, last = found
        norm = node.get_attributes()
        axes = operations.constant(np.array(_PIXELS))
        new = operations.mvn(image, axes, norm["normalize_variance"], norm["eps"], norm["eps_mode"].lower())
        last.output(0).replace(new.output(0))
        joined += 1
    return joined


def _flattened(norm: Any) -> tuple[Any, Any] | None:
    """Return the image [N, C, H, W] that is flattened for ``norm``, and the operation that restores its shape."""
    if norm.get_type_name() != "MVN":
        return None
    before = norm.input_value(0)
    if before.get_node().get_type_name() != "Reshape" or not _shaped(before, 3) or _size(before, 1) != 1:
        return None
    if not _is(norm, 2):  # a norm over the whole flattened axis
        return None
    image = before.get_node().input_value(0)
    if not _shaped(image, 4):
        return None
    chain = [norm]
    for kind in ("Multiply", "Add", "Reshape"):  # scale and shift of the instance norm, then the original shape
        user = _user(chain[-1], kind)
        if user is None:
            return None
        chain.append(user)
    _, scale, shift, after = chain
    same = after.output(0).get_partial_shape() == image.get_partial_shape()
    return (image, after) if same and _is(scale, 1.0) and _is(shift, 0.0) else None


def _shaped(value: Any, rank: int) -> bool:
    found = value.get_partial_shape().rank
    return bool(found.is_static and found.get_length() == rank)


def _size(value: Any, axis: int) -> int | None:
    size = value.get_partial_shape()[axis]
    return size.get_length() if size.is_static else None


def _user(node: Any, kind: str) -> Any | None:
    """Return the only user of the output of ``node`` if it is of type ``kind``, else None; ShapeOf is not counted."""
    users = [use.get_node() for use in node.output(0).get_target_inputs()]
    users = [user for user in users if user.get_type_name() != "ShapeOf"]
    return users[0] if len(users) == 1 and users[0].get_type_name() == kind else None


def _is(node: Any, value: float) -> bool:
    """Return whether the second input of ``node`` is a constant, possibly reshaped, with ``value`` everywhere."""
    source = node.input_value(1).get_node()
    if source.get_type_name() == "Reshape":
        source = source.input_value(0).get_node()
    return source.get_type_name() == "Constant" and bool(np.all(source.get_data() == value))
