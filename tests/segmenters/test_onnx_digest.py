"""The digest of an ONNX file covers every file that holds its weights."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dgkit.errors import InputError
from dgkit.files import digest_file
from dgkit.generation.agreement import judge_digest
from dgkit.generation.filter_measurement import SceneJudge
from dgkit.segmenters.onnx_digest import digest_onnx, external_files
from dgkit.segmenters.opening import open_segmenter
from tests.segmenters.onnx_files import externalize, palette_model

pytest.importorskip("onnxruntime")


def change(path: Path) -> None:
    """Change the last byte of a file."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def test_a_single_file_keeps_the_digest_of_its_bytes(tmp_path: Path) -> None:
    path = palette_model(tmp_path / "s.onnx")
    assert digest_onnx(path) == digest_file(path)
    model = onnx.load(path)
    model.doc_string = "location"
    onnx.save(model, path)
    assert external_files(path) == [] and digest_onnx(path) == digest_file(path)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["s.onnx.data"]),
        ({"one_file": False}, ["tensor0", "tensor1"]),
        ({"one_file": False, "folder": "weights/"}, ["weights/tensor0", "weights/tensor1"]),
    ],
)
def test_external_data_is_part_of_the_digest(tmp_path: Path, options: dict, names: list[str]) -> None:
    path = palette_model(tmp_path / "s.onnx")
    externalize(path, **options)
    assert external_files(path) == names
    seen = {digest_onnx(path)}
    for name in names:
        change(tmp_path / name)
        seen.add(digest_onnx(path))
    assert len(seen) == 1 + len(names)


def test_external_data_of_subgraphs_is_found(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones(8, np.float32), "weight")
    onnx.external_data_helper.set_external_data(weight, "branch.bin")
    weight.ClearField("raw_data")
    value = helper.make_node("Constant", [], ["x"], value=weight)
    branch = helper.make_graph([value], "b", [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, [8])])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    inputs = [helper.make_tensor_value_info("c", TensorProto.BOOL, [])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [8])]
    path = tmp_path / "s.onnx"
    path.write_bytes(helper.make_model(helper.make_graph([node], "g", inputs, outputs)).SerializeToString())
    assert external_files(path) == ["branch.bin"]


def test_every_command_notices_new_weights(tmp_path: Path) -> None:
    path = palette_model(tmp_path / "s.onnx")
    externalize(path)

    def digests() -> list[object]:
        with open_segmenter(path, device="cpu") as opened:
            return [opened.facts()["sha256"], SceneJudge(path).identity["segmenter_sha256"], judge_digest(path)]

    before = digests()
    change(tmp_path / "s.onnx.data")
    assert all(old != new for old, new in zip(before, digests(), strict=True))


def test_weights_that_are_missing_or_elsewhere(tmp_path: Path) -> None:
    path = palette_model(tmp_path / "net" / "s.onnx")
    externalize(path)
    (tmp_path / "net" / "s.onnx.data").rename(tmp_path / "other.data")
    with pytest.raises(InputError, match=r"stores weights in .*s\.onnx\.data, which cannot be read"):
        digest_onnx(path)
    with pytest.raises(InputError, match="stores weights in"):
        open_segmenter(path, device="cpu")
    model = onnx.load(path, load_external_data=False)
    for location in ("../other.data", str(tmp_path / "other.data")):
        for tensor in model.graph.initializer[:2]:
            tensor.external_data[0].value = location
        onnx.save(model, path)
        with pytest.raises(InputError, match="outside of its own folder"):
            digest_onnx(path)
