"""PNG files: check that they are whole, and find their EXIF data, without decoding."""

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_STEP = 1 << 20  # bytes decompressed at once


def check_png(data: bytes) -> int:
    """Return the bit depth of a PNG that is whole.

    Raises ValueError unless all chunks are there with the right checksums and the pixel stream holds every row:
    Pillow does not check the checksums of pixel data, and reads rows that are missing as 0.
    """
    wanted, held, depth = 0, 0, 0
    stream, ended = zlib.decompressobj(), False
    for kind, start, end in _chunks(data):
        if kind == b"IHDR":
            depth = data[start + 8]
            wanted = _stream_bytes(*struct.unpack_from(">IIBB2xB", data, start))
        elif kind == b"IDAT" and held < wanted and not stream.eof:
            held += _decompressed(stream, data[start:end], wanted - held)
        ended = kind == b"IEND"
    if not ended:
        raise ValueError("its end is missing")
    if held < wanted:
        raise ValueError(f"its pixel data ends after {held} of {wanted} bytes")
    return depth


def read_exif(stream: BinaryIO) -> bytes:
    """Return the content of the ``eXIf`` chunk, wherever it lies in the file; empty if there is none."""
    stream.seek(len(SIGNATURE))
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"eXIf":
            return stream.read(min(length, _STEP))
        stream.seek(length + 4, 1)
    return b""


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, start, end) of the content of each chunk up to the last one; ValueError for a wrong checksum."""
    start = len(SIGNATURE)
    while start + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 8 + length
        if end + 4 > len(data):
            return
        if zlib.crc32(memoryview(data)[start + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ValueError("a checksum is wrong")
        yield kind, start + 8, end
        if kind == b"IEND":
            return
        start = end + 4


def _stream_bytes(width: int, height: int, depth: int, colour: int, interlaced: int) -> int:
    """Return the length of the decompressed pixel stream: each row has a filter byte and whole bytes of pixels."""
    if colour not in _CHANNELS:
        raise ValueError(f"colour type {colour} is unknown")
    bits = depth * _CHANNELS[colour]
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)


def _decompressed(stream: "zlib._Decompress", data: bytes, limit: int) -> int:
    """Return the number of bytes that ``data`` adds to the stream, counted up to ``limit`` or a little more."""
    held = 0
    try:
        while data and held < limit and not stream.eof:
            held += len(stream.decompress(data, _STEP))
            data = stream.unconsumed_tail
    except zlib.error as error:
        raise ValueError(f"its pixel data cannot be decompressed ({error})") from error
    return held
