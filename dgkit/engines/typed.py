"""Networks in one precision: the module copy that is exported, and its graph converted back to fp32 for checking.

Weights, activations and floating-point inputs and outputs all have that precision. Group and layer norms compute in
fp32 between two casts, because their sums of squares exceed the range of fp16. Softmax stays in the precision of the
graph, because builders only fuse attention in that form; queries and keys are scaled before their product.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dgkit.optional import require

_EXTERNAL = 1024  # bytes; smaller tensors stay in the graph, where constant folding looks for them


class _GroupNorm(nn.GroupNorm):
    def forward(self, input: Tensor) -> Tensor:
        result = functional.group_norm(input.float(), self.num_groups, _float(self.weight), _float(self.bias), self.eps)
        return result.to(input.dtype)


class _LayerNorm(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        shape = list(self.normalized_shape)
        result = functional.layer_norm(input.float(), shape, _float(self.weight), _float(self.bias), self.eps)
        return result.to(input.dtype)


def typed_copy(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy of ``module`` in ``dtype`` for inference, with norms in fp32. The module is unchanged.

    In fp32 the copy shares its weights with the module.
    """
    result = copy_in_dtype(module, dtype)
    for part in result.modules() if dtype != torch.float32 else ():
        if type(part) is nn.GroupNorm:
            part.__class__ = _GroupNorm
        elif type(part) is nn.LayerNorm:
            part.__class__ = _LayerNorm
    return result.eval()


def copy_in_dtype(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy of ``module`` with floating-point weights in ``dtype``, shared where they have it already."""
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        value = tensor.detach().to(dtype) if tensor.is_floating_point() else tensor.detach()
        memo[id(tensor)] = nn.Parameter(value, requires_grad=False) if isinstance(tensor, nn.Parameter) else value
    return copy.deepcopy(module, memo)  # deepcopy takes the weights from memo: no second copy in the old dtype


def write_fp32_graph(source: Path, target: Path) -> Path:
    """Write the ONNX file ``source`` to ``target`` with every bf16 tensor in fp32, and return ``target``.

    ONNX Runtime has no bf16 kernels for the CPU. The copy has the same weights and nodes but does not round activations
    to bf16.
    """
    ir: Any = require("onnx_ir", "cpu")
    model = ir.load(source)
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            if value.dtype == ir.DataType.BFLOAT16:
                value.const_value = ir.tensor(value.const_value.numpy().astype("float32"), name=name)
                value.dtype = ir.DataType.FLOAT
        for value in graph.inputs:
            _widen(value, ir)
        for node in graph:
            for attribute in node.attributes.values():
                _widen_attribute(node, attribute, ir)
            for value in node.outputs:
                _widen(value, ir)
    ir.save(model, target, external_data=f"{target.name}.data", size_threshold_bytes=_EXTERNAL)
    return target


def _widen(value: Any, ir: Any) -> None:
    if value.dtype == ir.DataType.BFLOAT16:
        value.dtype = ir.DataType.FLOAT


def _widen_attribute(node: Any, attribute: Any, ir: Any) -> None:
    if attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype == ir.DataType.BFLOAT16:
        wide = ir.tensor(attribute.value.numpy().astype("float32"), name=attribute.value.name)
        node.attributes[attribute.name] = ir.AttrTensor(attribute.name, wide)
    elif node.op_type == "Cast" and attribute.name == "to" and attribute.value == ir.DataType.BFLOAT16:
        node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))


def _float(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight.float()
