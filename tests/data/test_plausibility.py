"""Label maps in another id system are noticed by the position and frequency of their classes."""

from pathlib import Path

import numpy as np
import pytest

from dgkit.cli.app import main
from dgkit.data.datasets import labels_folder, open_dataset
from dgkit.data.plausibility import doubt
from dgkit.labels import ENCODINGS, IGNORE, NUM_CLASSES
from dgkit.world import render
from tests.data.trees import write_ids


@pytest.fixture(scope="module")
def city() -> list[np.ndarray]:
    """Train ids of four scenes."""
    return [render("source", 5, number, height=96).label for number in range(4)]


def ids_of(label: np.ndarray, encoding: str) -> np.ndarray:
    """The ids that ``encoding`` has for train ids; classes that it lacks become ignore."""
    table = ENCODINGS[encoding].table
    back = np.full(256, np.flatnonzero(table == IGNORE)[0], np.uint8)
    for train_id in range(NUM_CLASSES):
        back[train_id] = next(iter(np.flatnonzero(table == train_id)), back[IGNORE])
    return back[label]


def write(folder: Path, labels: list[np.ndarray]) -> Path:
    for number, label in enumerate(labels):
        write_ids(folder / f"{number}.png", label)
    return folder


def test_train_ids_raise_no_doubt(tmp_path: Path, city: list[np.ndarray]) -> None:
    assert doubt(labels_folder(write(tmp_path, city))) is None


def test_crops_raise_no_doubt(tmp_path: Path, city: list[np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    for number in range(60):
        label, side = city[number % 4], int(rng.choice([8, 24, 48, 80]))
        y, x = (int(rng.integers(0, length - side)) for length in label.shape)
        folder = write(tmp_path / str(number), [label[y : y + side, x : x + side]])
        assert doubt(labels_folder(folder)) is None


@pytest.mark.parametrize("encoding", ["camvid"])
def test_other_ids_are_named(tmp_path: Path, city: list[np.ndarray], encoding: str) -> None:
    folder = write(tmp_path, [ids_of(label, encoding) for label in city])
    assert f"--encoding {encoding}" in str(doubt(labels_folder(folder)))
    assert doubt(labels_folder(folder, encoding)) is None


def test_train_ids_in_a_set_of_other_ids(tmp_path: Path, city: list[np.ndarray]) -> None:
    write(tmp_path / "trainannot", [np.minimum(label, 11) for label in city])
    assert "--encoding train_ids" in str(doubt(open_dataset("camvid", tmp_path)))


def test_a_command_prints_the_warning(
    tmp_path: Path, city: list[np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, [ids_of(label, "camvid") for label in city])
    assert main(["stats", "--labels", str(tmp_path), "--json"]) == 0
    assert "--encoding camvid" in capsys.readouterr().err
