"""What OpenVINO's own passes leave undone in a graph, as rewriting that changes no result beyond rounding."""

from typing import Any

import numpy as np

from dgkit.optional import require

_PIXELS = [1, 2, 3]  # axes of a channel, a row and a column


def join_norms(model: Any) -> int:
    """Make every group norm of one group in ``model``, an ``openvino.Model``, a normalisation of four axes, in place.

    ONNX says it as an instance norm of [N, 1, C*H*W]. To flatten it so, the library takes a picture that it keeps with
    the channels last to channels first and back again, for each of them: in the decoder of the embedded model that is a
    quarter of the time. Returns how many there were.
    """
    operations = require("openvino", "cpu").opset13
    joined = 0
    for node in model.get_ops():
        found = _flattened(node)
        if found is None:
            continue
        picture, last = found
        norm = node.get_attributes()
        axes = operations.constant(np.array(_PIXELS))
        new = operations.mvn(picture, axes, norm["normalize_variance"], norm["eps"], norm["eps_mode"].lower())
        last.output(0).replace(new.output(0))
        joined += 1
    return joined


def _flattened(norm: Any) -> tuple[Any, Any] | None:
    """The picture [N, C, H, W] that is flattened for ``norm``, and the operation that gives it its shape back."""
    if norm.get_type_name() != "MVN":
        return None
    before = norm.input_value(0)
    if before.get_node().get_type_name() != "Reshape" or not _shaped(before, 3) or _size(before, 1) != 1:
        return None
    if not _is(norm, 2):  # over all that was flattened
        return None
    picture = before.get_node().input_value(0)
    if not _shaped(picture, 4):
        return None
    chain = [norm]
    for kind in ("Multiply", "Add", "Reshape"):  # the scale and shift of the instance norm, then the former shape
        user = _user(chain[-1], kind)
        if user is None:
            return None
        chain.append(user)
    _, scale, shift, after = chain
    same = after.output(0).get_partial_shape() == picture.get_partial_shape()
    return (picture, after) if same and _is(scale, 1.0) and _is(shift, 0.0) else None


def _shaped(value: Any, rank: int) -> bool:
    found = value.get_partial_shape().rank
    return bool(found.is_static and found.get_length() == rank)


def _size(value: Any, axis: int) -> int | None:
    size = value.get_partial_shape()[axis]
    return size.get_length() if size.is_static else None


def _user(node: Any, kind: str) -> Any | None:
    """What takes the output of ``node``, if that is one operation of this kind; asking for a shape does not count."""
    users = [use.get_node() for use in node.output(0).get_target_inputs()]
    users = [user for user in users if user.get_type_name() != "ShapeOf"]
    return users[0] if len(users) == 1 and users[0].get_type_name() == kind else None


def _is(node: Any, value: float) -> bool:
    """Whether the second input of ``node`` is a constant, or one given another shape, that is ``value`` throughout."""
    source = node.input_value(1).get_node()
    if source.get_type_name() == "Reshape":
        source = source.input_value(0).get_node()
    return source.get_type_name() == "Constant" and bool(np.all(source.get_data() == value))
