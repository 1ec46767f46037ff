"""Checkpoints of a segmenter are verified before a training resumes from them."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

if importlib.util.find_spec("mmseg") is None:
    pytest.skip("needs mmsegmentation: pip install 'dgkit[seg]'", allow_module_level=True)

from dgkit.errors import InputError, ModelError
from dgkit.files import digest_file
from dgkit.training.segmenter.checkpoints import best_checkpoint, find_checkpoint, list_checkpoints, write_digests


def write(folder: Path, name: str, value: float = 1.0) -> Path:
    path = folder / name
    torch.save({"meta": {"iter": 1}, "state_dict": {"head.weight": torch.full((64,), value)}}, path)
    return path


def record(folder: Path) -> None:
    write_digests(folder, {path.name: [digest_file(path)] for path in folder.glob("*.pth")})


def test_the_newest_by_number_is_found(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path) is None
    for name in ("iter_9.pth", "iter_10.pth", "best_mIoU_iter_8.pth", ".iter_11.pth.1.tmp"):
        write(tmp_path, name)
    record(tmp_path)
    assert find_checkpoint(tmp_path) == tmp_path / "iter_10.pth"
    assert [path.name for path in list_checkpoints(tmp_path)] == ["iter_9.pth", "iter_10.pth"]
    assert best_checkpoint(tmp_path) == tmp_path / "best_mIoU_iter_8.pth"


def test_a_flipped_bit_is_named_with_the_last_good_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, "iter_1.pth")
    path = write(tmp_path, "iter_2.pth")
    record(tmp_path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"iter_2\.pth cannot be read: it differs from the SHA-256") as caught:
        find_checkpoint(tmp_path)
    assert caught.value.hint == f"delete that file to resume from {tmp_path / 'iter_1.pth'}"
    path.unlink()
    assert find_checkpoint(tmp_path) == tmp_path / "iter_1.pth"


def test_old_and_new_content_are_valid_while_a_checkpoint_is_replaced(tmp_path: Path) -> None:
    path = write(tmp_path, "iter_1.pth")
    write_digests(tmp_path, {path.name: [digest_file(path), "of the new content"]})
    assert find_checkpoint(tmp_path) == path
    write_digests(tmp_path, {path.name: ["of the old content", digest_file(path)]})
    assert find_checkpoint(tmp_path) == path


def test_a_folder_of_an_earlier_version_trusts_the_checkpoint_that_mmengine_names(tmp_path: Path) -> None:
    write(tmp_path, "iter_1.pth")
    write(tmp_path, "iter_2.pth")
    assert find_checkpoint(tmp_path) is None
    for text, found in ((f"{tmp_path}/iter_1.pth", "iter_1.pth"), ("", None), ("iter_3.pth", None), (".", None)):
        (tmp_path / "last_checkpoint").write_text(text)
        assert find_checkpoint(tmp_path) == (tmp_path / found if found else None)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    write(tmp_path, "iter_1.pth", value)
    (tmp_path / "last_checkpoint").write_text("iter_1.pth")
    for _ in ("without a digest", "with one"):
        with pytest.raises(ModelError, match=r"head\.weight holds values that are not finite") as caught:
            find_checkpoint(tmp_path)
        assert "start again" in caught.value.hint
        record(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"iter_1.pth": 3}'])
def test_digests_that_cannot_be_read_are_one_line(tmp_path: Path, text: str) -> None:
    write(tmp_path, "iter_1.pth")
    (tmp_path / "checkpoints.json").write_text(text)
    with pytest.raises(InputError, match=r"checkpoints\.json cannot be read"):
        find_checkpoint(tmp_path)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "iter_1.pth")
    path.write_bytes(path.read_bytes()[:300])
    (tmp_path / "last_checkpoint").write_text("iter_1.pth")
    with pytest.raises(ModelError, match=r"iter_1\.pth cannot be read"):
        find_checkpoint(tmp_path)


def test_the_digests_are_those_of_the_files(tmp_path: Path) -> None:
    write(tmp_path, "iter_1.pth")
    record(tmp_path)
    found = json.loads((tmp_path / "checkpoints.json").read_text())
    assert found == {"iter_1.pth": [digest_file(tmp_path / "iter_1.pth")]}
