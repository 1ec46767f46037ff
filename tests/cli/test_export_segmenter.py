"""``dgkit export segmenter`` through the real command line: the ONNX file and its side-car."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from dgkit.cli.app import main
from dgkit.segmenters.opening import open_segmenter
from tests.segformers import save_narrow_segformer

for name in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(name, reason=f"needs {name}: pip install 'dgkit[cpu]'")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_narrow_segformer(tmp_path_factory.mktemp("segformer"))


def check_same(checkpoint: Path, file: Path, sizes: list[tuple[int, int]]) -> None:
    rng = np.random.default_rng(0)
    with open_segmenter(checkpoint, device="cpu") as one, open_segmenter(file, device="cpu") as two:
        assert one.classes.tolist() == two.classes.tolist()
        for size in sizes:
            images = torch.from_numpy(rng.integers(0, 256, (2, 3, *size), dtype=np.uint8))
            assert torch.allclose(one.logits(images), two.logits(images), atol=1e-3)


def test_transformers_folder(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["export", "segmenter", str(folder), str(tmp_path / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["file"] == str(tmp_path / "out" / "segmenter.onnx") and found["error"] < 1e-4
    assert (found["kind"], found["classes"], found["size"]) == ("transformers SegFormer", 20, None)
    sidecar = yaml.safe_load(Path(found["side_car"]).read_text())
    assert sidecar["mean"] == [0.5, 0.4, 0.3] and sidecar["classes"][19] == "sofa" and sidecar["multiple_of"] == 32
    check_same(folder, Path(found["file"]), [(64, 96), (32, 160)])


@pytest.mark.slow
def test_fixed_size(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "net.onnx"
    assert main(["export", "segmenter", str(folder), str(path), "--size", "64"]) == 0
    assert "64x64" in capsys.readouterr().err
    import onnx

    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims] == [0, 3, 64, 64]  # the batch is free
    check_same(folder, path, [(64, 64)])


def test_refusals(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["export", "segmenter", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "is not a segmenter" in capsys.readouterr().err
    assert main(["export", "segmenter", str(folder), str(tmp_path / "out"), "--config", "a.py"]) == 2
    assert "only checkpoints (*.pth and *.pt) have a config" in capsys.readouterr().err
    assert main(["export", "segmenter", str(folder)]) == 2
    assert "OUT" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_mmsegmentation_checkpoint(tmp_path: Path, capsys: Capture) -> None:
    if importlib.util.find_spec("mmseg") is None:
        pytest.skip("needs mmsegmentation: pip install 'dgkit[seg]'")
    from tests.segmenters.mmseg_files import model_config, save

    preprocessor = {**model_config()["data_preprocessor"], "bgr_to_rgb": False}  # the file takes RGB all the same
    save(tmp_path / "iter_1.pth", model_config(data_preprocessor=preprocessor))
    assert main(["export", "segmenter", str(tmp_path / "iter_1.pth"), str(tmp_path / "net.onnx"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "mmsegmentation" and found["error"] < 1e-4
    check_same(tmp_path / "iter_1.pth", tmp_path / "net.onnx", [(64, 96), (32, 160)])
