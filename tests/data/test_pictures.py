"""Photographs are read as OpenCV reads them, whole or not at all."""

import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dgkit.data import pictures
from dgkit.data.labelmap import read_label
from dgkit.data.pictures import describe_size, picture_size, read_picture, read_pixels, reading
from dgkit.data.png import check_png
from dgkit.errors import DgkitError, InputError, LabelError, UsageError
from dgkit.training.data.image_files import read_image

RNG = np.random.default_rng(0)
PHOTOGRAPH = cv2.resize(RNG.integers(0, 256, (4, 6, 3)).astype(np.uint8), (48, 32))


def save(path: Path, orientation: int = 1, image: np.ndarray = PHOTOGRAPH) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(image).save(path, exif=exif.tobytes(), **({"quality": 100} if path.suffix == ".jpg" else {}))
    return path


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(pixels: np.ndarray, rows: int | None = None, interlaced: bool = False, end: bytes = b"") -> bytes:
    """8-bit PNG [H,W] or [H,W,3] whose pixel stream holds ``rows`` rows; ``end``: chunks after the pixels."""
    height, width = pixels.shape[:2]
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [pixels[y::dy, x::dx] for y, x, dy, dx in passes] if interlaced else [pixels[:rows]]
    stream = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, interlaced)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(stream)), end, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_orientations_are_those_of_opencv(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = save(tmp_path / f"a{suffix}", orientation)
    expected = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    found = read_picture(path)
    assert found.shape == expected.shape and picture_size(path) == expected.shape[:2]
    assert np.abs(found.astype(int) - expected).max() <= 2  # decoders of JPEG differ by rounding
    assert np.array_equal(read_image(path), found)
    assert reading(path) == ("" if orientation == 1 else f"EXIF orientation {orientation}")


def test_orientation_after_the_pixels_and_in_motorola_order(tmp_path: Path) -> None:
    exif = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    (tmp_path / "a.png").write_bytes(png(PHOTOGRAPH, end=chunk(b"eXIf", exif)))
    assert np.array_equal(read_picture(tmp_path / "a.png"), np.rot90(PHOTOGRAPH, -1))
    assert picture_size(tmp_path / "a.png") == (48, 32)


@pytest.mark.parametrize("exif", [b"", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"nonsense"])
def test_damaged_exif_data_turns_nothing(tmp_path: Path, exif: bytes) -> None:
    (tmp_path / "a.png").write_bytes(png(PHOTOGRAPH, end=chunk(b"eXIf", exif)))
    assert np.array_equal(read_picture(tmp_path / "a.png"), PHOTOGRAPH)


def test_orientation_can_be_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", 6)
    assert "48x32 with EXIF orientation 6; DGKIT_EXIF=ignore" in describe_size(path)
    monkeypatch.setenv("DGKIT_EXIF", "ignore")
    assert np.array_equal(read_picture(path), PHOTOGRAPH) and picture_size(path) == (32, 48) and reading(path) == ""
    assert "orientation 6 is ignored" in describe_size(path)
    monkeypatch.setenv("DGKIT_EXIF", "off")
    with pytest.raises(UsageError, match="DGKIT_EXIF=off is not allowed; allowed: apply, ignore"):
        read_picture(path)


def test_16_bit_photographs_are_scaled(tmp_path: Path) -> None:
    grey = RNG.integers(0, 65536, (8, 6)).astype(np.uint16)
    for name, pixels in (("grey.png", grey), ("colour.png", np.stack([grey, grey // 3, grey // 7], 2))):
        cv2.imwrite(str(tmp_path / name), pixels)
        expected = cv2.cvtColor(cv2.imread(str(tmp_path / name)), cv2.COLOR_BGR2RGB)
        assert np.array_equal(read_picture(tmp_path / name), expected)
        assert np.array_equal(read_image(tmp_path / name), expected)
    assert reading(tmp_path / "grey.png") == "16-bit grey" and reading(tmp_path / "colour.png") == ""


def test_8_bit_values_in_a_16_bit_file_are_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((4, 4), 200, np.uint16))
    with pytest.raises(InputError, match=r"16-bit grey values end at 200"):
        read_picture(tmp_path / "a.png")
    for channels in (3, 4):
        cv2.imwrite(str(tmp_path / "a.png"), np.full((4, 4, channels), 200, np.uint16))
        with pytest.raises(InputError, match=r"all of its 16-bit values are below 256, so it would be black"):
            read_picture(tmp_path / "a.png")
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    assert not read_picture(tmp_path / "a.png").any()


@pytest.mark.parametrize("read", [read_label, read_picture, read_pixels])
def test_a_pixel_stream_that_ends_early_is_refused(tmp_path: Path, read) -> None:
    path, pixels = tmp_path / "a.png", np.ones((16, 8), np.uint8)
    path.write_bytes(png(pixels))
    assert read(path).shape[:2] == (16, 8)
    for rows in (0, 5, 15):
        path.write_bytes(png(pixels, rows))
        with pytest.raises(InputError, match=rf"pixel data ends after {9 * rows} of 144 bytes"):
            read(path)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (8, 8), (17, 9)])
def test_interlaced_files_are_whole(tmp_path: Path, shape: tuple[int, int]) -> None:
    pixels = RNG.integers(0, 19, shape).astype(np.uint8)
    (tmp_path / "a.png").write_bytes(png(pixels, interlaced=True))
    assert np.array_equal(read_label(tmp_path / "a.png"), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16"])
def test_every_kind_of_png_is_whole(mode: str) -> None:
    stream = io.BytesIO()
    Image.new(mode, (13, 7)).save(stream, "PNG")
    check_png(stream.getvalue())


@pytest.mark.parametrize("read", [read_label, read_picture, picture_size, reading, read_image])
def test_pipes_devices_and_huge_files_are_refused(tmp_path: Path, read) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "sparse.png").open("wb") as stream:
        stream.truncate(30 << 30)
    for name, words in (("pipe.png", "a pipe, a socket or a device"), ("sparse.png", "30,720 MiB; the limit is 512")):
        with pytest.raises(DgkitError, match=words) as caught:
            read(tmp_path / name)
        assert isinstance(caught.value, InputError | LabelError) and name in caught.value.message
    with pytest.raises(InputError):
        read("a\0b.png")


def test_a_bomb_and_oversized_texts_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * (2 << 20)))
    (tmp_path / "text.png").write_bytes(png(PHOTOGRAPH, end=text))
    (tmp_path / "bomb.png").write_bytes(png(PHOTOGRAPH).replace(struct.pack(">II", 48, 32), b"\0\1\0\0\0\1\0\0"))
    for name in ("text.png", "bomb.png"):
        for read in (read_picture, read_pixels):
            with pytest.raises(InputError, match=f"{name} cannot be read as an image"):
                read(tmp_path / name)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1000)
    (tmp_path / "large.png").write_bytes(png(PHOTOGRAPH))
    with pytest.raises(InputError, match="48x32 pixels; the limit is"):
        read_picture(tmp_path / "large.png")


def test_other_formats_are_refused(tmp_path: Path) -> None:
    for data in (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"", b"x"):
        (tmp_path / "a.png").write_bytes(data)
        with pytest.raises(InputError, match="it is none of PNG, JPEG, WEBP, BMP"):
            read_picture(tmp_path / "a.png")
