"""Reading a generated folder, and refusing what is none."""

import json
from pathlib import Path

import numpy as np
import pytest

from dgkit.errors import InputError
from dgkit.outputs.generated_folder import count_classes, open_generated
from tests.outputs.folders import HEIGHT, WIDTH, make_generated, make_job


def test_scenes_settings_and_counts(generated: Path) -> None:
    folder = open_generated(generated)
    assert [record["index"] for record in folder.records] == list(range(7))
    assert folder.size == (HEIGHT, WIDTH) and folder.name == "scenes"
    assert folder.styles == {"snowy": 2, "sunny": 2, "foggy": 1, "night": 1, "rainy": 1}
    assert folder.drawn == {"car": 3, "train": 2}


def test_pixels_of_classes_are_those_of_the_labels(generated: Path) -> None:
    pixels = count_classes(open_generated(generated))
    labels = [make_job(index).label for index in range(7)]
    expected = np.array([np.bincount(label.ravel(), minlength=256)[:19] for label in labels])
    assert np.array_equal(pixels.classes, expected)
    assert pixels.totals == expected.sum(0).tolist()
    assert pixels.scenes == (expected > 0).sum(0).tolist()
    ignored = np.mean([label == 255 for label in labels])
    assert ignored > 0 and pixels.ignored_share == pytest.approx(ignored)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder of dgkit generate"):
        open_generated(tmp_path)


def test_an_unfinished_folder_is_refused_unless_asked_for(tmp_path: Path) -> None:
    out = make_generated(tmp_path / "out", 5, written=3)
    with pytest.raises(InputError, match="3 of the 5 scenes") as caught:
        open_generated(out)
    assert "dgkit generate" in caught.value.hint
    assert len(open_generated(out, partial=True).records) == 3


@pytest.mark.parametrize(
    ("key", "value"), [("image", "../secret.png"), ("label", "/etc/passwd"), ("id", "a/b"), ("prompt", None)]
)
def test_a_line_that_leads_elsewhere_is_refused(tmp_path: Path, key: str, value: str | None) -> None:
    out = make_generated(tmp_path / "out", 1)
    line = json.loads((out / "manifest.jsonl").read_text())
    line = {k: v for k, v in line.items() if k != key} | ({} if value is None else {key: value})
    (out / "manifest.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(InputError, match="is not that of a scene"):
        open_generated(out)
