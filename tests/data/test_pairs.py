"""Photographs and label maps of the same size, and what is said of others."""

from pathlib import Path

import pytest

from dgkit.data.datasets import labels_folder
from dgkit.data.pairs import check_pairs, mismatched_pairs, read_pair
from dgkit.data.samples import Dataset, Sample
from dgkit.errors import LabelError
from tests.data.trees import write_ids, write_image


def test_pairs_of_different_size_are_listed(tmp_path: Path) -> None:
    for i in range(6):
        write_ids(tmp_path / "labels" / f"{i}.png")
        write_image(tmp_path / "images" / f"{i}.png", 4, 6 if i == 0 else 7)
    dataset = labels_folder(tmp_path)
    lines = mismatched_pairs(dataset)
    assert len(lines) == 5 and "1.png is 6x4 but" in lines[0] and "1.png is 7x4" in lines[0]
    with pytest.raises(LabelError, match=r"5 of 6 pairs differ in size: .* and 2 more"):
        check_pairs(dataset)
    assert read_pair(dataset.samples[0])[0].shape == (4, 6, 3)
    with pytest.raises(LabelError, match=r"is 6x4 but .* is 7x4"):
        read_pair(dataset.samples[1])


def test_a_pair_without_a_usable_photograph(tmp_path: Path) -> None:
    label = write_ids(tmp_path / "a.png")
    with pytest.raises(LabelError, match="photograph of this label map was not found"):
        read_pair(Sample("a", label, None, "train_ids"))
    broken = tmp_path / "b.jpg"
    broken.write_bytes(b"no picture")
    sample = Sample("a", label, broken, "train_ids")
    for call in (lambda: read_pair(sample), lambda: check_pairs(Dataset("x", tmp_path, "all", (sample,)))):
        with pytest.raises(LabelError, match="cannot be read as an image"):
            call()
