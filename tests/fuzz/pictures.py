"""Damaged and hostile PNG and JPEG files, built chunk by chunk."""

from __future__ import annotations

import functools
import io
import random
import struct
import zlib

import numpy as np
from PIL import Image

from tests.fuzz.mutations import broken_bytes

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ROTATED = b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"  # EXIF with orientation 6
_SIZES = ([0, 40], [40, 0], [2**31 - 1] * 2, [2**32 - 1] * 2, [65_535] * 2, [8000, 8000], [1, 2**30])
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def chunk(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    total = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", total)


def make_png(rng: random.Random, height: int, width: int, colour: int | None = None) -> bytes:
    """A PNG file that is right at first and then damaged in one way or in none."""
    colour = rng.choice((0, 0, 2, 2, 3, 3, 4, 6)) if colour is None else colour
    depth = rng.choice({0: (8, 8, 16, 1, 4), 3: (8, 8, 1, 2, 4)}.get(colour, (8, 8, 16)))
    interlace = int(rng.random() < 0.1)
    row = (width * _CHANNELS[colour] * depth + 7) // 8
    rows = [bytes([rng.choice((0, 0, 1, 2, 4))]) + bytes(rng.choice((0, 1, 5, 18, 255)) for _ in range(1)) * row
            for _ in range(height)]  # fmt: skip
    pixels = b"".join(rows)
    size = [width, height]
    before: list[bytes] = [chunk(b"PLTE", bytes(range(256)) * 3)] if colour == 3 else []
    after: list[bytes] = []
    stream: bytes | None = None
    how = rng.randrange(24)
    if how == 0:  # ends early, with right checksums
        pixels = pixels[: rng.randrange(len(pixels))]
    elif how == 1:  # states other sizes than it holds
        size = list(rng.choice(_SIZES))
    elif how == 2:  # a bomb: 100 Mpx of one colour in 100 kB
        size, stream = [9000, 12_000], _packed_zeros(9001 * 12_000)
    elif how == 3:
        before.append(chunk(b"zTXt", b"a\0\0" + _packed_zeros(rng.choice((70, 1)) << 20)))
    elif how == 4:
        before += [chunk(b"zTXt", b"k%d\0\0" % n + _packed_zeros(900_000)) for n in range(100)]
    elif how == 5:
        before.append(chunk(b"iTXt", b"a\0\1\0\0\0" + _packed_zeros(50 << 20)))
    elif how == 6:
        before.append(chunk(b"tEXt", bytes(rng.choice((3 << 20, 10)))))
    elif how == 7:
        before.append(chunk(b"iCCP", b"a\0\0" + _packed_zeros(50 << 20)))
    elif how == 8:
        before = [chunk(b"PLTE", bytes(rng.choice((0, 3, 4, 1000))))]
    elif how == 9:
        before.append(chunk(b"tRNS", bytes(rng.choice((0, 1, 2, 6, 300)))))
    elif how == 10:
        stream = broken_bytes(rng, zlib.compress(pixels))
    elif how == 11:
        before.append(
            chunk(
                b"eXIf",
                rng.choice((b"", _ROTATED, rng.randbytes(40))),
            )
        )
    elif how == 12:
        before.append(chunk(b"acTL", struct.pack(">II", rng.choice((2, 0, 2**31)), 0)))
        after.append(chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, width * 2, height, 5, 5, 1, 1, 0, 0)))
    elif how == 13:
        before.append(chunk(rng.choice((b"XXXX", b"aaaa", b"\0\0\0\0", b"IHDR", b"IEND")), rng.randbytes(20)))
    elif how == 14:
        depth = rng.choice((0, 3, 8, 16, 32, 255))
    elif how == 15:
        pixels += bytes(rng.choice((1, 1000, 5 << 20)))
    elif how == 16:
        rows[rng.randrange(height)] = bytes([rng.choice((5, 200))]) + bytes(row)
        pixels = b"".join(rows)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlace))
    data = zlib.compress(pixels) if stream is None else stream
    parts = [data[: len(data) // 2], data[len(data) // 2 :]] if rng.random() < 0.2 else [data]
    body = b"".join(chunk(b"IDAT", part, 1 if how == 17 else None) for part in parts)
    whole = _SIGNATURE + header + b"".join(before) + body + b"".join(after) + chunk(b"IEND", b"")
    return broken_bytes(rng, whole) if how in (18, 19) else other_format(rng, height, width) if how == 20 else whole


def make_jpeg(rng: random.Random, height: int, width: int) -> bytes:
    """A JPEG file that is right at first and then damaged in one way or in none."""
    mode = rng.choice(("RGB", "RGB", "L", "CMYK"))
    options: dict[str, object] = {"quality": rng.choice((5, 75, 100)), "progressive": rng.random() < 0.3}
    if rng.random() < 0.3:
        exif = Image.Exif()
        exif[0x0112] = rng.choice((1, 6, 8, 0, 99))
        options["exif"] = exif
    buffer = io.BytesIO()
    _noise(rng, height, width).convert(mode).save(buffer, "JPEG", **options)
    data = bytearray(buffer.getvalue())
    how = rng.randrange(12)
    if how == 0:  # states other sizes than it holds
        start = next(place for place in range(len(data)) if data[place] == 0xFF and data[place + 1] in (0xC0, 0xC2))
        data[start + 5 : start + 9] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x40\0\x40\0"))
    elif how == 1:
        return bytes(data[: rng.randrange(len(data))])
    elif how in (2, 3, 4):
        return broken_bytes(rng, bytes(data))
    elif how == 5:
        data[2:2] = b"\xff\xe1\xff\xff" + b"Exif\0\0" + rng.randbytes(65_527)
    elif how == 6:
        data[2:2] = (b"\xff\xfe\xff\xff" + bytes(65_533)) * 100
    elif how == 7:
        return bytes(data[:-2])
    elif how == 8:
        return other_format(rng, height, width)
    return bytes(data)


def other_format(rng: random.Random, height: int, width: int) -> bytes:
    """A file of another format under the name of a picture."""
    kind = rng.choice(("GIF", "BMP", "TIFF", "WEBP", "PPM", "EPS", "TGA", "text", "svg", "eps"))
    if kind == "text":
        return b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    if kind == "svg":
        return b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    if kind == "eps":
        return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9999 9999\n(/etc/passwd) (r) file\n%%EOF\n"
    buffer = io.BytesIO()
    _noise(rng, height, width).save(buffer, kind)
    return buffer.getvalue()


def _noise(rng: random.Random, height: int, width: int) -> Image.Image:
    return Image.fromarray(np.frombuffer(rng.randbytes(height * width * 3), np.uint8).reshape(height, width, 3))


@functools.cache
def _packed_zeros(count: int) -> bytes:
    packer = zlib.compressobj(9)
    piece = bytes(1 << 20)
    parts = [packer.compress(piece) for _ in range(count >> 20)]
    return b"".join([*parts, packer.compress(bytes(count % (1 << 20))), packer.flush()])
