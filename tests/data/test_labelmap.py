"""Label maps in every form of the data sets, and files that must be refused with a helpful message."""

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dgkit.data.labelmap import (
    colorize,
    encode,
    find_encoding,
    label_size,
    ranges,
    read_label,
    resize_label,
    write_label,
)
from dgkit.errors import DgkitError, InputError, LabelError, OutputError, UsageError
from dgkit.labels import ENCODINGS, PALETTE

IDS = np.array([[0, 2, 6], [13, 255, 18]], dtype=np.uint8)


def png(path: Path, width: int, height: int, depth: int, colour: int, rows: bytes) -> Path:
    """A PNG from its parts, so that headers can lie."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


# --- reading ----------------------------------------------------------------------------------------------------------


def test_grey_palette_and_16_bit_files_give_the_same_ids(tmp_path: Path) -> None:
    grey = Image.fromarray(IDS)
    palette = Image.fromarray(IDS).convert("L")
    palette.putpalette([7 * i % 256 for i in range(768)])
    assert palette.mode == "P"
    wide = Image.fromarray(IDS.astype(np.uint16))
    for name, picture in (("grey", grey), ("palette", palette), ("wide", wide)):
        picture.save(tmp_path / f"{name}.png")
        label = read_label(tmp_path / f"{name}.png")
        assert label.dtype == np.uint8 and label.tolist() == IDS.tolist(), name


def test_palette_of_few_colours_keeps_its_indices(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1], [2, 3]], dtype=np.uint8))
    picture.putpalette([255, 255, 255, 9, 9, 9, 8, 8, 8, 7, 7, 7])
    picture.save(tmp_path / "a.png", bits=2)
    assert (tmp_path / "a.png").read_bytes()[24] == 2
    assert read_label(tmp_path / "a.png").tolist() == [[0, 1], [2, 3]]


def test_the_array_is_read_only(tmp_path: Path) -> None:
    write_label(tmp_path / "a.png", IDS)
    with pytest.raises(ValueError, match="read-only"):
        read_label(tmp_path / "a.png")[0, 0] = 1


def test_19_of_older_generated_sets_is_ignore(tmp_path: Path) -> None:
    Image.fromarray(np.array([[19, 18]], dtype=np.uint8)).save(tmp_path / "a.png")
    assert read_label(tmp_path / "a.png").tolist() == [[255, 18]]


def test_cityscapes_ids(tmp_path: Path) -> None:
    Image.fromarray(np.array([[7, 26, 33, 0, 34]], dtype=np.uint8)).save(tmp_path / "a.png")
    assert read_label(tmp_path / "a.png", "cityscapes_ids").tolist() == [[0, 13, 18, 255, 255]]


def test_synthia_ids_are_in_the_first_of_three_16_bit_channels(tmp_path: Path) -> None:
    red_green_blue = np.zeros((2, 2, 3), dtype=np.uint16)
    red_green_blue[..., 0] = [[3, 4], [10, 22]]
    red_green_blue[..., 1] = 40_000  # instance numbers
    cv2.imwrite(str(tmp_path / "a.png"), red_green_blue[..., ::-1])
    assert read_label(tmp_path / "a.png", "synthia").tolist() == [[0, 1], [11, 255]]


def test_names_of_mapillary_come_from_its_config(tmp_path: Path) -> None:
    config = tmp_path / "config_v2.0.json"
    config.write_text('{"labels": [{"readable": "Traffic Light - Cyclists"}, {"readable": "Road"}, {"name": "x"}]}')
    Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8)).save(tmp_path / "a.png")
    assert read_label(tmp_path / "a.png", f"mapillary_b@{config}").tolist() == [[6, 0, 255]]
    with pytest.raises(LabelError, match="unknown ids 3"):
        encode(np.array([[3]]), f"mapillary_b@{config}")


@pytest.mark.parametrize("content", [None, "{}", "[", '{"labels": 3}', '{"labels": []}', '{"labels": [1]}'])
def test_a_mapillary_config_that_cannot_be_used(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"config\.json"):
        find_encoding(f"mapillary_b@{path}")


def test_real_gta_maps(shared_folder: Path) -> None:
    paths = sorted((shared_folder / "data" / "gta_labels").glob("*.png"))
    assert len(paths) == 3
    for path in paths:
        label = read_label(path)
        assert label.shape == (1052, 1914) == label_size(path)
        assert np.array_equal(label, np.asarray(Image.open(path)))


def test_real_camvid_map(shared_folder: Path) -> None:
    path = sorted((shared_folder / "data" / "camvid" / "valannot").glob("*.png"))[0]
    raw = np.asarray(Image.open(path))
    label = read_label(path, "camvid")
    assert ((label == 10) == (raw == 0)).all() and ((label == 255) == (raw == 11)).all()


# --- refusing ---------------------------------------------------------------------------------------------------------


def _bad_files(folder: Path) -> dict[str, tuple[Path, str, str]]:
    """name -> (file, words of the message, words of the hint)"""
    good = folder / "good.png"
    noisy = np.random.default_rng(0).integers(0, 19, (64, 64), dtype=np.uint8)
    Image.fromarray(noisy).save(good)
    whole = good.read_bytes()
    files: dict[str, tuple[bytes | None, str, str]] = {
        "missing": (None, "no such file", "check the path"),
        "empty": (b"", "the file is empty", "again"),
        "cut_header": (whole[:20], "truncated in its header", "again"),
        "cut_signature": (whole[:5], "truncated in its header", "again"),
        "cut_data": (whole[: len(whole) // 2], "truncated or damaged", "again"),
        "flipped": (
            whole[:-40] + bytes(b ^ 0xFF for b in whole[-40:-20]) + whole[-20:],
            "truncated or damaged",
            "again",
        ),
        "jpeg": (b"\xff\xd8\xff\xe0" + bytes(60), "a JPEG", "lossless format"),
        "text": (b"road road sky", "not a PNG", "lossless format"),
    }
    result = {}
    for name, (data, words, hint) in files.items():
        path = folder / f"{name}.png"
        if data is not None:
            path.write_bytes(data)
        result[name] = (path, words, hint)
    rgb = folder / "rgb.png"
    Image.fromarray(PALETTE[noisy]).save(rgb)
    result["rgb"] = (rgb, "an RGB image", "--encoding cityscapes_colours")
    rgba = folder / "rgba.png"
    Image.fromarray(np.zeros((2, 2, 4), np.uint8)).save(rgba)
    result["rgba"] = (rgba, "an RGBA image", "--encoding cityscapes_colours")
    deep = folder / "deep.png"
    Image.fromarray(np.array([[0, 7000]], np.uint16)).save(deep)
    result["deep"] = (deep, "unknown ids 7000 for train_ids", "no known id system")
    labelids = folder / "labelids.png"
    Image.fromarray(np.array([[7, 26, 33]], np.uint8)).save(labelids)
    result["labelids"] = (labelids, "unknown ids 26, 33", "--dataset gta=DIR or --dataset cityscapes=DIR")
    result["huge"] = (png(folder / "huge.png", 100_000, 100_000, 8, 0, b"\0"), "the limit is 64 Mpx", "crop the map")
    result["no_width"] = (png(folder / "no_width.png", 0, 4, 8, 0, b""), "0x4 pixels", "again")
    result["one_bit"] = (png(folder / "one_bit.png", 8, 1, 1, 0, b"\0\xaa"), "1-bit grey", "8-bit grey")
    result["folder"] = (folder, "this is a folder, not a label map", "--labels DIR")
    return result


BAD = [
    "missing",
    "empty",
    "cut_header",
    "cut_signature",
    "cut_data",
    "flipped",
    "jpeg",
    "text",
    "rgb",
    "rgba",
    "deep",
    "labelids",
    "huge",
    "no_width",
    "one_bit",
    "folder",
]


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_with_a_helpful_message(tmp_path: Path, name: str) -> None:
    files = _bad_files(tmp_path)
    assert sorted(files) == sorted(BAD)
    path, words, hint = files[name]
    with pytest.raises(LabelError) as caught:
        read_label(path)
    assert str(path) in caught.value.message and words in caught.value.message and hint in caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint
    assert caught.value.exit_code == 1


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    write_label(path, IDS)
    path.chmod(0)
    if os.access(path, os.R_OK):  # root reads everything: let the system call refuse instead

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(LabelError, match="permission denied") as caught:
        read_label(path)
    assert "chmod" in caught.value.hint


def test_the_hint_names_the_encoding_that_fits() -> None:
    for raw, name in (([[65, 13]], "mapillary_a"), ([[34, 7]], "cityscapes_ids")):
        with pytest.raises(LabelError) as caught:
            encode(np.array(raw, np.uint8))
        assert f"--encoding {name}" in caught.value.hint
    with pytest.raises(LabelError) as caught:
        encode(np.array([[18, 255]], np.uint8), "camvid")
    assert "--encoding train_ids" in caught.value.hint


@pytest.mark.parametrize(
    "raw",
    [np.zeros((2, 2)), np.zeros((2, 2, 3), np.uint8), np.zeros((0, 4), np.uint8), np.array([[-1]]), np.array([[256]])],
)
def test_arrays_that_are_not_label_maps(raw: np.ndarray) -> None:
    with pytest.raises(LabelError):
        encode(raw)


def test_unknown_encodings_list_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        read_label("any.png", "pascal")
    assert all(name in caught.value.message for name in ENCODINGS)


def test_ranges() -> None:
    assert ranges([0, 1, 2, 5, 7, 8, 255]) == "0-2, 5, 7-8, 255"
    assert ranges(range(0, 100, 2), limit=3) == "0, 2, 4, ..."


# --- resizing ---------------------------------------------------------------------------------------------------------


def test_resize_takes_the_pixel_under_each_cell_centre() -> None:
    label = np.arange(16, dtype=np.uint8).reshape(4, 4)
    assert resize_label(label, 2, 2).tolist() == [[5, 7], [13, 15]]
    assert resize_label(label, 8, 8)[::2, ::2].tolist() == label.tolist()
    assert resize_label(label, 8, 8)[1::2, 1::2].tolist() == label.tolist()
    assert resize_label(label, 4, 4).tolist() == label.tolist()
    assert resize_label(label, 1, 3).tolist() == [[8, 10, 11]]


@pytest.mark.parametrize("size", [(1, 1), (3, 7), (51, 49), (1052, 1914)])
def test_resize_equals_the_formula_in_exact_arithmetic(size: tuple[int, int]) -> None:
    label = np.random.default_rng(1).integers(0, 19, (50, 50), dtype=np.uint8)
    result = resize_label(label, *size)
    rows = [((2 * i + 1) * 50) // (2 * size[0]) for i in range(size[0])]
    columns = [((2 * j + 1) * 50) // (2 * size[1]) for j in range(size[1])]
    assert np.array_equal(result, label[np.ix_(rows, columns)])
    assert not result.flags.writeable


def test_resize_to_nothing() -> None:
    with pytest.raises(UsageError, match="0x4"):
        resize_label(IDS, 4, 0)


def test_colours() -> None:
    colours = colorize(IDS)
    assert colours.shape == (2, 3, 3) and colours.dtype == np.uint8
    assert colours[0, 0].tolist() == [128, 64, 128] and colours[1, 1].tolist() == [0, 0, 0]


# --- writing ----------------------------------------------------------------------------------------------------------


def test_written_maps_read_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "labels" / "a_labelTrainIds.png"
    write_label(path, IDS)
    with Image.open(path) as picture:
        assert picture.mode == "L"
    assert read_label(path).tolist() == IDS.tolist()
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "label", [IDS.astype(np.int64), IDS[0], np.array([[19]], np.uint8), np.array([[77]], np.uint8)]
)
def test_only_train_ids_are_written(tmp_path: Path, label: np.ndarray) -> None:
    with pytest.raises(LabelError):
        write_label(tmp_path / "a.png", label)
    assert list(tmp_path.iterdir()) == []


def test_writing_into_a_folder_that_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as caught:
        write_label(tmp_path / "file" / "a.png", IDS)
    assert isinstance(caught.value, DgkitError)


def test_a_map_that_viewers_turn_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its photograph is turned, and mmsegmentation and OpenCV read maps as stored: the two would not fit."""
    exif, path, stored = Image.Exif(), tmp_path / "a.png", np.arange(6, dtype=np.uint8).reshape(2, 3)
    for orientation in (1, 3, 6):
        exif[0x0112] = orientation
        Image.fromarray(stored).save(path, exif=exif)
        if orientation == 1:
            assert np.array_equal(read_label(path), stored)
            continue
        with pytest.raises(LabelError, match=f"its EXIF orientation {orientation} turns it in viewers") as caught:
            read_label(path)
        assert "DGKIT_EXIF=ignore" in caught.value.hint
    monkeypatch.setenv("DGKIT_EXIF", "ignore")
    assert np.array_equal(read_label(path), stored)
