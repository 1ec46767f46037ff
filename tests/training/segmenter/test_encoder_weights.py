"""Pretrained weights of encoders in files and folders that are damaged or hostile."""

import json
import os
from pathlib import Path

import pytest
from torch import nn

from dgkit.errors import ModelError
from dgkit.training.segmenter.encoder_weights import load_encoder
from tests.segformers import save_narrow_segformer


def change_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_pipes_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    os.mkfifo(path)
    with pytest.raises(ModelError, match=r"it is a pipe|no such file"):
        load_encoder(nn.Linear(1, 1), str(path))


def test_a_folder_cannot_import_or_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'made')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = save_narrow_segformer(tmp_path / "mit")
    keys = {"attn_implementation": "evil/kernel", "_attn_implementation": "evil/kernel"}
    change_config(folder, auto_map={"AutoModel": "evil.M"}, quantization_config={"quant_method": "evil"}, **keys)
    with pytest.raises(ModelError, match="lacks 2 of 2 tensors"):  # the weights were read
        load_encoder(nn.Linear(1, 1), str(folder))
    assert not (tmp_path / "made").exists()


def test_a_folder_of_sizes_that_no_network_has(tmp_path: Path) -> None:
    folder = save_narrow_segformer(tmp_path / "mit")
    change_config(folder, depths=[10**9] * 4)
    with pytest.raises(ModelError, match="which is too large"):
        load_encoder(nn.Linear(1, 1), str(folder))
