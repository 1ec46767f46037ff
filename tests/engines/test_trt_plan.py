"""The program in an engine file is read: kernels, their nodes and types."""

from __future__ import annotations

from pathlib import Path

from dgkit.engines.trt_plan import Kernel, read_kernels

PROGRAM = b"""header {
  accelerators={sm80 }
}
descriptors {
  tensor={ alignment=128 dims={ 2 8 } mem_prop=100 name="image.1" offset=0 type=half }
  tensor={ alignment=128 dims={ 8 8 } name="weight" offset=0 type=half }
  tensor={ alignment=128 dims={ 1 } name="alpha" offset=1 type=float }
  sub_tensor={ base="image.1" const_offset=0 dims={ 2 4 } name="half of it" type=half }
  tensor={ alignment=128 dims={ 2 8 } name="sum" type=float }
  tensor={ alignment=128 dims={ 2 } name="rows" type=int64 }
}
main {
 label bb1:
  memset={ name="clear" output={"sum" } src="0" }
  corrltn={ name="node_conv" output={"half of it" } input={"image.1" "weight" "alpha" } layers="[ONNX Layer: node_conv]\x1e
[ONNX Layer: node_silu]" }
  function={ name=__myl_Mean args={ "half of it" "sum" } input_args={ "half of it" "rows" } output_args={ "sum" } layers="[ONNX Layer: node_norm][ONNX Layer: node_norm]" }
}
shape_main {
  mul={ name="x" output={"rows" } input={"rows" } layers="[ONNX Layer: node_shape]" }
}
\x00weights and more header {
"""  # noqa: E501


def test_kernels(tmp_path: Path) -> None:
    file = tmp_path / "model.engine"
    file.write_bytes(b"ftrt\x00" + PROGRAM)
    assert read_kernels(file) == (
        Kernel("corrltn", ("node_conv", "node_silu"), ("fp16", "fp16"), ("fp16",)),
        Kernel("function", ("node_norm",), ("fp16", "int64"), ("fp32",)),
    )


def test_a_file_without_a_program_has_no_kernels(tmp_path: Path) -> None:
    file = tmp_path / "model.engine"
    file.write_bytes(b"ftrt\x00of another version")
    assert read_kernels(file) == ()
