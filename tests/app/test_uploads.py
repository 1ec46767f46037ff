"""Uploaded files: ids, Cityscapes colours, and what is refused."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgkit.app import uploads
from dgkit.app.uploads import ids_of_colours, read_upload
from dgkit.data.colour_maps import COLOURS
from dgkit.data.labelmap import colorize
from dgkit.errors import InputError, LabelError
from dgkit.labels import IGNORE
from tests.scenes import make_label


def encoded(array: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_ids_and_colours_give_the_same_map(tmp_path: Path) -> None:
    label = make_label(2)
    for picture, encoding in ((label, "train_ids"), (colorize(label), COLOURS)):
        found, note = read_upload(tmp_path, "a.png", encoded(picture), encoding)
        assert np.array_equal(found, label) and note == ""
    assert list(tmp_path.iterdir()) == []


def test_other_colours_get_the_nearest_class_and_a_note() -> None:
    label = make_label(3)
    picture = colorize(label)
    picture[0, :10] += 3  # of 96 x 160 pixels
    found, note = ids_of_colours(picture)
    assert np.array_equal(found, label)
    assert note.startswith("0.07% of the pixels had no Cityscapes colour")
    dark = np.array([[[0, 0, 0], [0, 0, 141], [0, 0, 0], [0, 0, 0]]], np.uint8)
    assert ids_of_colours(dark)[0].tolist() == [[IGNORE, 13, IGNORE, IGNORE]]


def test_a_photograph_is_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    with pytest.raises(LabelError, match="photograph"):
        ids_of_colours(noise)


def test_refusals_name_the_file_and_not_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label = encoded(make_label(0))
    monkeypatch.setattr(uploads, "MAX_MAP_PIXELS", 1000)
    with pytest.raises(LabelError, match=r"^my map.png: 160x96 pixels; the limit"):
        read_upload(tmp_path, "my\nmap.png", label, "train_ids")
    monkeypatch.undo()
    with pytest.raises(LabelError, match="RGB image"):
        read_upload(tmp_path, "a.png", encoded(colorize(make_label(0))), "train_ids")
    with pytest.raises(LabelError, match="unknown ids"):
        read_upload(tmp_path, "a.png", encoded(np.full((8, 8), 99, np.uint8)), "train_ids")
    for data, reason in ((None, "more than 16 MiB"), ("A" * (30 << 20), "more than 16 MiB"), ("?", "damaged")):
        with pytest.raises(InputError, match=reason):
            read_upload(tmp_path, "a.png", data, "train_ids")
    for content in (b"", b"GIF89a", b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(InputError) as caught:
            read_upload(tmp_path, "a.png", base64.b64encode(content).decode(), COLOURS)
        assert str(tmp_path) not in caught.value.message and caught.value.message.startswith("a.png")


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("L", (8192, 8192)).save(buffer, "PNG")  # 64 kB that unpack to 64 MB
    data = base64.b64encode(buffer.getvalue()).decode()
    assert len(data) < 200_000
    with pytest.raises(LabelError, match="8192x8192 pixels; the limit of this page is 32 Mpx"):
        read_upload(tmp_path, "bomb.png", data, "train_ids")
