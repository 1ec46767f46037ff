"""The kernels of a TensorRT-RTX engine with the types that they read and write, found without a GPU.

An engine file contains the compiled program as text: the tensors with their types, then one statement per kernel with
the ONNX nodes that it computes. The format is not documented (seen in TensorRT-RTX 1.7), so a file without such a
program simply has no kernels here. On a GPU the engine inspector of the library gives the same.
"""

import mmap
import re
from dataclasses import dataclass
from pathlib import Path

from dgkit.engines.trt_library import DTYPE_NAMES

_START, _END = b"header {\n", b"\0"
_TENSOR = re.compile(r'^  (?:sub_)?tensor=\{.* dims=\{ ([^}]*) \}.* name="([^"]+)".* type=(\w+) \}', re.MULTILINE)
_STATEMENT = re.compile(r"\n  (?=\w+=\{)")
_INPUTS, _OUTPUTS = (re.compile(rf" {side}(?:_args)?=\{{([^}}]*)\}}") for side in ("input", "output"))
_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_QUOTED = re.compile(r'"([^"]*)"')


@dataclass(frozen=True)
class Kernel:
    """One kernel: its ``kind``, such as ``fully_connected``, the ONNX ``nodes`` that it computes, and the types of the
    tensors that it ``reads`` and ``writes``, without scalars.
    """

    kind: str
    nodes: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]


def read_kernels(file: Path) -> tuple[Kernel, ...]:
    """Return the kernels of the engine ``file`` in the order of execution; types are named as by ``--dtype``.

    Empty if the file has no program that this module understands. Raises OSError.
    """
    program = _program(file)
    tensors, _, statements = program.partition("\nmain {")
    types = {name: DTYPE_NAMES.get(kind, kind) for dims, name, kind in _TENSOR.findall(tensors) if dims != "1"}
    return tuple(
        Kernel(text.partition("=")[0], nodes, _types(_INPUTS, text, types), _types(_OUTPUTS, text, types))
        for text in _STATEMENT.split(statements.partition("\nshape_main {")[0])[1:]
        if (nodes := tuple(dict.fromkeys(_NODE.findall(text))))
    )


def _program(file: Path) -> str:
    """Return the text of the first program in an engine file, which may be larger than the memory."""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.find(_START)
        return content[start : content.find(_END, start)].decode(errors="replace") if start >= 0 else ""


def _types(side: re.Pattern[str], statement: str, types: dict[str, str]) -> tuple[str, ...]:
    found = side.search(statement)
    names = _QUOTED.findall(found[1]) if found else []
    return tuple(types[name] for name in names if name in types)
