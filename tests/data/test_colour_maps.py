"""Label maps in colours: those of Cityscapes, and those of a table."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgkit.data.colour_maps import COLOURS
from dgkit.data.datasets import labels_folder, open_source
from dgkit.data.index import build_index, table_digest
from dgkit.data.labelmap import colorize, find_encoding, read_label
from dgkit.data.plausibility import doubt
from dgkit.errors import InputError, LabelError, UsageError

IDS = np.array([[0, 1, 13], [255, 18, 10]], np.uint8)


def save(path: Path, colours: np.ndarray, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colours).convert(mode, palette=Image.Palette.ADAPTIVE).save(path)
    return path


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_of_cityscapes_are_read_back(tmp_path: Path, mode: str) -> None:
    path = save(tmp_path / "a.png", colorize(IDS), mode)
    label = read_label(path, COLOURS)
    assert np.array_equal(label, IDS) and label.dtype == np.uint8 and not label.flags.writeable


def test_every_class_is_read_back_from_its_colour(tmp_path: Path) -> None:
    ids = np.array([[*range(19), 255]], np.uint8)
    assert np.array_equal(read_label(save(tmp_path / "a.png", colorize(ids)), COLOURS), ids)


def test_a_folder_of_gtfine(tmp_path: Path) -> None:
    stem = "gtFine/val/ulm/ulm_000000_000019_gtFine"
    save(tmp_path / f"{stem}_color.png", colorize(IDS), "RGBA")
    with pytest.raises(InputError, match="holds 1 colour, instance or invalid map such") as caught:
        labels_folder(tmp_path)
    assert f"--encoding {COLOURS}" in caught.value.hint
    save(tmp_path / f"{stem}_labelIds.png", IDS, "L")
    save(tmp_path / f"{stem}_instanceIds.png", IDS, "L")
    dataset = labels_folder(tmp_path, COLOURS)
    assert [sample.label.name for sample in dataset.samples] == ["ulm_000000_000019_gtFine_color.png"]
    assert doubt(dataset) is None
    assert np.array_equal(build_index(dataset).counts.sum(0), np.bincount(IDS[IDS < 19], minlength=19))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("own.csv", "class,red,green,blue\nroad,1,2,3\ncar,4,5,6\n\nignore,0,0,0\n"),
        ("own.csv", "0,1,2,3\n13,4,5,6\n255,0,0,0"),
        ("own.yaml", "road: [1, 2, 3]\ncar: [[4, 5, 6], [7, 8, 9]]\nignore: [0, 0, 0]"),
    ],
)
def test_colours_of_a_table(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    path = save(tmp_path / "maps" / "a.png", np.uint8([[[1, 2, 3], [4, 5, 6], [0, 0, 0]]]))
    dataset = open_source(labels=path.parent, encoding=f"colours@{tmp_path / name}")
    assert dataset.samples[0].train_ids().tolist() == [[0, 13, 255]]


def test_colours_of_no_class(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.uint8([[[1, 2, 3], [1, 2, 3], [9, 9, 9], [128, 64, 128]]]))
    with pytest.raises(LabelError, match=r"75.0% of the pixels .* cityscapes_colours: \(1, 2, 3\), \(9, 9, 9\)$"):
        read_label(path, COLOURS)
    with pytest.raises(LabelError, match="an RGB image") as caught:
        read_label(path)
    assert COLOURS in caught.value.hint


WRONG_TABLES = {
    "a.csv": ("roads,1,2,3", "unknown class 'roads'"), "b.csv": ("road,1,2", "is not a colour"),
    "c.csv": ("road,1,2,256", "is not a colour"), "d.yaml": ("road: red", "is not a colour"),
    "e.csv": ("", "has no colours"), "f.csv": (None, "cannot read the colours"),
    "g.yaml": ("19: [1, 2, 3]", "unknown class '19'"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_TABLES)
def test_tables_that_are_wrong(tmp_path: Path, name: str) -> None:
    text, message = WRONG_TABLES[name]
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        find_encoding(f"colours@{tmp_path / name}")


def test_an_unknown_encoding_names_the_colours() -> None:
    with pytest.raises(UsageError, match="cityscapes_colours, and colours@FILE"):
        find_encoding("colors")


@pytest.mark.parametrize("text", ["road: '128'", "road: [1.5, 2, 3]", "road: [true, 2, 3]", "road: {1: 2, 2: 3, 3: 4}"])
def test_other_values_than_whole_numbers_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(InputError, match="is not a colour"):
        find_encoding(f"colours@{tmp_path / 'own.yaml'}")


def test_a_colour_of_two_classes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("road,1,2,3\ncar,1,2,3")
    with pytest.raises(InputError, match=r"the colour \(1, 2, 3\) belongs to two classes"):
        find_encoding(f"colours@{path}")


def test_a_changed_table_is_read_again(tmp_path: Path) -> None:
    table, image = tmp_path / "own.csv", save(tmp_path / "a.png", np.full((2, 2, 3), (1, 2, 3), np.uint8))
    table.write_text("traffic_light,1,2,3\n")
    before = table_digest(f"colours@{table}")
    assert read_label(image, f"colours@{table}")[0, 0] == 6
    table.write_text("Car,1,2,3\n")
    assert read_label(image, f"colours@{table}")[0, 0] == 13
    assert table_digest(f"colours@{table}") != before


def test_colours_of_16_bits_are_not_read_as_black(tmp_path: Path) -> None:
    import cv2

    for name, factor in (("low", 1), ("high", 257)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), colorize(IDS)[..., ::-1].astype(np.uint16) * factor)
    assert np.array_equal(read_label(tmp_path / "high.png", COLOURS), IDS)
    with pytest.raises(LabelError, match="all of its 16-bit values are below 256"):
        read_label(tmp_path / "low.png", COLOURS)
