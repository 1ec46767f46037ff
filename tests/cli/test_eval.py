"""``dgkit eval`` through the real command line; what it computes is tested with its modules."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgkit.cli.app import main
from dgkit.labels import PALETTE
from tests.segmenters.onnx_files import palette_model

pytest.importorskip("onnxruntime")


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Two pictures of stripes that show their labels' colours, one with another class in a corner."""
    label = np.repeat(np.array([0, 8, 10, 13], np.uint8), 16)[:, None].repeat(64, 1)
    for number in range(2):
        for folder, name, values in (("images", f"{number}.png", PALETTE[label]),
                                     ("labels", f"{number}_labelTrainIds.png", label)):  # fmt: skip
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(tmp_path / "set" / folder / name)
        label = label.copy()
        label[:8, :8] = 1
    net = palette_model(tmp_path / "net.onnx")
    sets = ["--set", "scale=[64,64]", "--set", "crop=32"]
    return ["eval", str(net), "--on", f"dgkit={tmp_path / 'set'}", "--out", str(tmp_path / "out"), *sets]


def test_a_table_for_people(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 0
    shown = capsys.readouterr()
    assert "mIoU" in shown.out and "100.00" in shown.out and "sidewalk" in shown.out
    assert str(tmp_path / "out" / "index.html") in shown.err.replace("\n", "")


def test_json_for_programs(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "set" / "images" / "1.png").write_bytes(b"no picture")
    assert main([*command, "--json"]) == 1
    assert "1 of kind 'damaged file'" in capsys.readouterr().err
    assert main([*command, "--json", "--skip-bad", "--tta", "--engine", "ort"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["sets"]["dgkit"]["images"] == 1 and result["sets"]["dgkit"]["miou"] == 1.0
    assert result["test_time_augmentation"] and result["bad_files"]["policy"] == "skip"


def test_styles_of_a_generated_folder_are_conditions(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"image": f"images/{number}.png", "style": style} for number, style in enumerate(("dusk", "[/fog]"))]
    manifest = "".join(json.dumps({**line, "label": "labels/x.png"}) + "\n" for line in lines)
    (tmp_path / "set" / "manifest.jsonl").write_text(manifest)
    assert main([*command, "--metrics", "conditions"]) == 0
    shown = capsys.readouterr().out
    assert "dgkit style dusk" in shown and "dgkit style [/fog]" in shown
    net = command[1]
    assert (
        main(
            [
                "eval",
                net,
                f"again={net}",
                *command[2:4],
                *command[-4:],
                "--out",
                str(tmp_path / "two"),
                "--metrics",
                "all",
            ]
        )
        == 0
    )
    shown = capsys.readouterr().out
    assert "dgkit style [/fog]" in shown and "boundary mIoU" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--protocol", "full"], "unknown protocol 'full'"),
        (["--on", "kitti=x"], "is not NAME=DIR"),
        (["--config", "net.py"], "only checkpoints (*.pth and *.pt) have a config"),
        (["--engine", "torch"], "allowed: ort and openvino"),
        (["--engine", "tvm"], "unknown engine 'tvm'"),
        (["--set", "stride=40"], "stride 40 is not within 1 to 32"),
        (["--set", "colour=red"], "unknown key 'colour'"),
    ],
)
def test_wrong_commands(command: list[str], words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, *words]) == 2
    assert message in capsys.readouterr().err


def test_not_a_segmenter(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(tmp_path), *command[2:]]) == 2
    assert "is not a segmenter" in capsys.readouterr().err
