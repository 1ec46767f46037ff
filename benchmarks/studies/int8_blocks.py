"""Blocks with the shapes of Stable Diffusion 1.5 and random weights, built of OpenVINO operators."""

from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as op

INPUT = "input"


class Weights:
    """Random constants, equal in all variants."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)

    def __call__(self, *shape: int, scale: float = 0.1, offset: float = 0.0) -> Any:
        return op.constant((self.random.standard_normal(shape) * scale + offset).astype(np.float32))


def residual(x: Any, y: Any) -> ov.Model:
    model = ov.Model([op.add(x, y)], [x])
    model.inputs[0].set_names({INPUT})
    return model


def resnet_block(batch: int, channels: int, side: int) -> ov.Model:
    """Return group norm, SiLU and a 3x3 convolution, twice, and the sum with the input; without a timestep."""
    weights, shape = Weights(), [batch, channels, side, side]
    x = y = op.parameter(shape, np.float32)
    for _ in range(2):
        y = op.reshape(y, np.array([batch, 32, -1]), False)
        y = op.reshape(op.mvn(y, np.array([2]), True, 1e-5, "inside_sqrt"), np.array(shape), False)
        y = op.add(op.multiply(y, weights(1, channels, 1, 1, offset=1.0)), weights(1, channels, 1, 1))
        kernel = weights(channels, channels, 3, 3, scale=(9 * channels) ** -0.5)
        y = op.convolution(op.swish(y), kernel, [1, 1], [1, 1], [1, 1], [1, 1])
        y = op.add(y, weights(1, channels, 1, 1))
    return residual(x, y)


def feed_forward(batch: int, tokens: int, width: int) -> ov.Model:
    """Return the feed-forward part of a transformer block: layer norm, linear, gated GELU, linear, sum."""
    weights = Weights()

    def linear(y: Any, inputs: int, outputs: int) -> Any:
        y = op.matmul(y, weights(outputs, inputs, scale=inputs**-0.5), False, True)
        return op.add(y, weights(1, 1, outputs))

    x = op.parameter([batch, tokens, width], np.float32)
    y = op.mvn(x, np.array([2]), True, 1e-5, "inside_sqrt")
    y = op.add(op.multiply(y, weights(1, 1, width, offset=1.0)), weights(1, 1, width))
    value, gate = op.split(linear(y, width, 8 * width), 2, 2).outputs()
    y = linear(op.multiply(value, op.gelu(gate, "erf")), 4 * width, width)
    return residual(x, y)


BLOCKS = {
    "resnet 1x320x64x64": (resnet_block, 1, 320, 64),
    "resnet 2x1280x16x16": (resnet_block, 2, 1280, 16),
    "feed-forward 1x4096x320": (feed_forward, 1, 4096, 320),
    "feed-forward 2x1024x640": (feed_forward, 2, 1024, 640),
}
