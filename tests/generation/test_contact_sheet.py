"""The contact sheet."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgkit.generation.contact_sheet import MAX_CELLS, THUMBNAIL_HEIGHT, Cell, choose, contact_sheet
from tests.scenes import make_label


def make_cells(folder: Path, count: int, shape: tuple[int, int] = (64, 64)) -> list[Cell]:
    cells = []
    for number in range(count):
        image, label = folder / f"{number}.png", folder / f"{number}_label.png"
        Image.fromarray(np.full((*shape, 3), (10 * number, 200, 30), np.uint8)).save(image)
        Image.fromarray(make_label(number, *shape)).save(label)
        cells.append(Cell(image, label, ("sunny", "night", "none")[number % 3], "car · 00001"))
    return cells


def test_every_image_is_next_to_its_label(tmp_path: Path) -> None:
    cells = make_cells(tmp_path, 5)
    pixels = np.asarray(contact_sheet(cells, "5 scenes", "model x"))
    for number in range(5):
        found = (pixels == (10 * number, 200, 30)).all(axis=2)
        assert found.sum() == THUMBNAIL_HEIGHT**2
        y, x = np.argwhere(found)[-1]
        assert (pixels[y, x + 1] == 0).all()  # the label's last row is ignore: black


def test_the_sheet_depends_on_its_input_alone(tmp_path: Path) -> None:
    cells = make_cells(tmp_path, 3, (64, 128))
    first, second = (np.asarray(contact_sheet(cells, "t", "f")) for _ in range(2))
    assert np.array_equal(first, second)


def test_a_line_break_in_a_source_becomes_a_blank(tmp_path: Path) -> None:
    (cell,) = make_cells(tmp_path, 1)
    sheets = [contact_sheet([dataclasses.replace(cell, note=note)], "t") for note in ("a\nb", "a b")]
    assert np.array_equal(*map(np.asarray, sheets))


@pytest.mark.parametrize("shape", [(64, 64), (64, 512), (256, 64), (32, 32)])
def test_any_shape_fits(tmp_path: Path, shape: tuple[int, int]) -> None:
    sheet = contact_sheet(make_cells(tmp_path, 2, shape), "t")
    pair = 2 * round(shape[1] * THUMBNAIL_HEIGHT / shape[0])
    assert sheet.width >= pair and sheet.height > THUMBNAIL_HEIGHT


def test_a_long_note_is_cut_at_the_border_of_its_picture(tmp_path: Path) -> None:
    cell = make_cells(tmp_path, 1, (512, 64))[0]
    narrow = contact_sheet([Cell(cell.image, cell.label, "night", "n" * 500)], "t")
    assert narrow.width == 640  # room for the legend, not for the note


def test_choose_balances_the_styles() -> None:
    styles = ["none"] * 50 + ["night"] * 2 + ["foggy"]
    chosen = choose(styles, 6)
    assert chosen == sorted(chosen)
    assert [styles[i] for i in chosen].count("night") == 2
    assert [styles[i] for i in chosen].count("foggy") == 1
    assert choose(["sunny"] * 3) == [0, 1, 2]
    assert len(choose(["sunny"] * 100)) == MAX_CELLS


def test_an_empty_sheet_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([], "t")
