"""Unlabelled and captioned images: how they are found, rescaled, cropped and refused."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgkit.errors import InputError
from dgkit.training.data.image_files import (
    CaptionedFeed,
    ImageFeed,
    ImageFiles,
    list_images,
    padded,
    read_captions,
    read_image,
)


def _picture(path: Path, height: int = 40, width: int = 60) -> Path:
    """Green is the row, blue is the column."""
    rows, columns = np.mgrid[:height, :width]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([0 * rows, rows, columns], -1).astype(np.uint8)).save(path)
    return path


def test_images_below_the_folder_are_found_in_a_fixed_order(tmp_path):
    for name in ("b/2.JPG", "a.png", "b/1.jpeg", "notes.txt", ".hidden.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    assert [str(p.relative_to(tmp_path)) for p in list_images(tmp_path)] == ["a.png", "b/1.jpeg", "b/2.JPG"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images"):
        list_images(tmp_path / "empty")


def test_every_factor_and_every_position_is_drawn(tmp_path):
    files = ImageFiles((_picture(tmp_path / "a.png"),), 16, rescale=(0.5, 1.0, 2.0))
    feed = ImageFeed(files)
    spans, corners = set(), set()
    for i in range(300):
        example = feed.draw(np.random.default_rng(i))
        assert example.image.shape == (16, 16, 3)
        assert (example.label, example.caption) == (None, "")
        column = example.image[0, :, 2].astype(float)
        spans.add(round((column[12] - column[3]) / 9 * 2) / 2)
        corners.add((example.image[0, 0, 1], example.image[0, 0, 2]))
    assert spans == {2.0, 1.0, 0.5}
    assert len(corners) > 150


def test_rescaled_sizes_are_rounded_down(tmp_path):
    path = _picture(tmp_path / "a.png", 41, 61)
    assert read_image(path, 0.75).shape == (30, 45, 3)
    assert ImageFiles((path,), 16).shape(0, 0.75) == (30, 45)


def test_a_draw_is_a_function_of_the_generator(tmp_path):
    feed = ImageFeed(ImageFiles((_picture(tmp_path / "a.png"), _picture(tmp_path / "b.png", 50)), 16, (0.5, 1.5)))
    first = [feed.draw(np.random.default_rng([1, i])).image for i in range(9)]
    again = pickle.loads(pickle.dumps(feed))
    assert all(np.array_equal(first[i], again.draw(np.random.default_rng([1, i])).image) for i in reversed(range(9)))


def test_small_images_are_padded_by_reflection():
    image = np.arange(4, dtype=np.uint8)[:, None, None].repeat(5, 1).repeat(3, 2)
    assert padded(image, 9)[:, 0, 0].tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert padded(image[:1], 3).shape == (3, 5, 3)


def test_captions_and_styles_of_an_image_folder(tmp_path):
    _picture(tmp_path / "images" / "1.png")
    lines = [
        {"file_name": "images/1.png", "text": "A city street scene with road, in snowy weather."},
        {"file_name": "images/1.png", "caption": "plain", "style": "night"},
    ]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    paths, captions = read_captions(tmp_path)
    assert [style for _, style in captions] == ["snowy", "night"]
    drawn = {CaptionedFeed(ImageFiles(paths, 16), captions).draw(np.random.default_rng(i)).caption for i in range(20)}
    assert drawn == {lines[0]["text"], "plain"}


@pytest.mark.parametrize(
    "line", ["{", "[1]", '{"file_name": "a.png"}', '{"text": "x"}', '{"file_name": "z", "text": ""}']
)
def test_a_line_that_cannot_be_used_is_named(tmp_path, line):
    _picture(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x"}\n' + line + "\n")
    with pytest.raises(InputError, match="line 2"):
        read_captions(tmp_path)


def test_an_unreadable_picture_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    files = ImageFiles((tmp_path / "a.png",), 16)
    for attempt in (lambda: ImageFeed(files).draw(np.random.default_rng(0)), lambda: read_image(tmp_path / "a.png")):
        with pytest.raises(InputError, match=r"a\.png cannot be read"):
            attempt()


def test_captions_with_a_byte_order_mark_and_line_separators(tmp_path):
    _picture(tmp_path / "a.PNG")
    lines = ['{"file_name": ".\\\\a.PNG", "text": "rain\u2028and\x85snow"}', '{"file_name": "a.PNG", "text": "x"}']
    (tmp_path / "metadata.jsonl").write_bytes("\ufeff".encode() + "\r\n".join(lines).encode())
    assert [text for text, _ in read_captions(tmp_path)[1]] == ["rain\u2028and\x85snow", "x"]
    assert [path.name for path in list_images(tmp_path)] == ["a.PNG"]


def test_keys_of_latents_change_with_the_reading_of_a_photograph(tmp_path, monkeypatch):
    _picture(tmp_path / "plain.png")
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", (20, 20)).save(tmp_path / "turned.png", exif=exif)
    files = ImageFiles(list_images(tmp_path), 16)
    applied = [image.key for image in files.whole_images()]
    monkeypatch.setenv("DGKIT_EXIF", "ignore")
    ignored = [image.key for image in files.whole_images()]
    assert applied[0] == ignored[0] and applied[1] == f"{ignored[1]} EXIF orientation 3"
