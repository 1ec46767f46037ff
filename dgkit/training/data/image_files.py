"""Feeds of image files: rescaled by one of several factors, cropped from pixels or from cached latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from dgkit.data.crops import CropBox
from dgkit.data.listing import PHOTOGRAPHS, find_named, split_ending, walk
from dgkit.data.manifest import MAX_BYTES
from dgkit.data.pictures import picture_size, read_picture, reading
from dgkit.data.records import is_path
from dgkit.errors import InputError
from dgkit.files import parse_json, read_file
from dgkit.training.data.captions import style_of
from dgkit.training.data.feed import Example, LatentSource, Moments, WholeImage, check_grid, place_crop

TEXT_KEYS = ("text", "caption", "prompt")


@dataclass(frozen=True)
class ImageFiles:
    """Images on disk, resized by one of the factors ``rescale`` and cropped to ``size`` pixels.

    With ``latents`` the crops are cut from them on their grid, and from the pixels only if ``pixels``.
    """

    paths: tuple[Path, ...]
    size: int
    rescale: tuple[float, ...] = (1.0,)
    latents: LatentSource | None = None
    pixels: bool = True

    @property
    def grid(self) -> int:
        """Corners of crops are multiples of this many pixels."""
        return 1 if self.latents is None else self.latents.factor

    def with_latents(self, latents: LatentSource, pixels: bool) -> ImageFiles:
        """Return the same files with crops cut from ``latents``."""
        check_grid(self.size, latents)
        return replace(self, latents=latents, pixels=pixels)

    def draw_factor(self, rng: np.random.Generator) -> float:
        """Return a random factor; ``rng`` is not used if there is only one."""
        return self.rescale[int(rng.integers(len(self.rescale))) if len(self.rescale) > 1 else 0]

    def shape(self, index: int, factor: float) -> tuple[int, int]:
        """Return (height, width) after rescaling; reads only the header."""
        return scaled(picture_size(self.paths[index]), factor)

    def cut(self, index: int, factor: float, box: CropBox) -> tuple[np.ndarray | None, Moments | None]:
        """Return the pixels uint8 [S, S, 3] and latents in ``box``, each ``None`` if not used."""
        image, moments = None, None
        if self.pixels:
            whole = read_image(self.paths[index], factor)
            image = padded(whole[box.y : box.y + self.size, box.x : box.x + self.size], self.size)
        if self.latents is not None:
            moments = self.latents.window(self._key(index, factor), box.y, box.x, self.size)
        return image, moments

    def whole_images(self) -> Sequence[WholeImage]:
        """Return every image at every factor, padded to at least one crop."""
        return [
            WholeImage(self._key(i, factor), partial(_read_padded, path, factor, self.size))
            for i, path in enumerate(self.paths)
            for factor in self.rescale
        ]

    def _key(self, index: int, factor: float) -> str:
        path = self.paths[index]
        try:
            status = path.stat()
        except OSError as error:
            raise _unreadable(path, error) from error
        how = reading(path)
        return f"{path.absolute()} {status.st_size} {status.st_mtime_ns} {factor!r} {self.size}" + f" {how}" * bool(how)


class ImageFeed:
    """Random crops of unlabelled, randomly rescaled images, all with the same ``caption``.

    With an empty caption and factors 0.5, 0.75, 1, 1.25, 1.5, 2 this is the data of DGInStyle's source fine-tuning
    (dreambooth/train_dreambooth.py). An image smaller than the crop is padded by reflection.
    """

    def __init__(self, files: ImageFiles, caption: str = "") -> None:
        self.files, self.caption = files, caption

    def draw(self, rng: np.random.Generator) -> Example:
        """Return a random crop of a random image."""
        index = int(rng.integers(len(self.files.paths)))
        factor = self.files.draw_factor(rng)
        box = place_crop(self.files.shape(index, factor), self.files.size, self.files.grid, rng)
        image, moments = self.files.cut(index, factor, box)
        text, style = self._describe(index)
        frame = (*self.files.shape(index, 1.0), box.y, box.x)
        return Example(image, moments, None, text, style, str(self.files.paths[index]), frame)

    def whole_images(self) -> Sequence[WholeImage]:
        """Return every image at every factor."""
        return self.files.whole_images()

    def with_latents(self, latents: LatentSource, pixels: bool = False) -> ImageFeed:
        """Return the same feed with crops cut from ``latents``."""
        return ImageFeed(self.files.with_latents(latents, pixels), self.caption)

    def _describe(self, index: int) -> tuple[str, str]:
        return self.caption, style_of(self.caption)


class CaptionedFeed(ImageFeed):
    """Random crops of images with one caption each, as :func:`read_captions` returns them."""

    def __init__(self, files: ImageFiles, captions: Sequence[tuple[str, str]]) -> None:
        super().__init__(files)
        self.captions = tuple(captions)

    def with_latents(self, latents: LatentSource, pixels: bool = False) -> CaptionedFeed:
        """Return the same feed with crops cut from ``latents``."""
        return CaptionedFeed(self.files.with_latents(latents, pixels), self.captions)

    def _describe(self, index: int) -> tuple[str, str]:
        return self.captions[index]


def list_images(root: Path) -> tuple[Path, ...]:
    """Return all .png and .jpg files below ``root``, sorted by path. Raises :class:`InputError` if there are none."""
    found = [root / sub / name for sub, names in walk(root) for name in names if split_ending(name, PHOTOGRAPHS)]
    if not found:
        raise InputError(f"no images ({', '.join(PHOTOGRAPHS)}) below {root}", "use a folder with images")
    return tuple(sorted(found))


def read_captions(root: Path) -> tuple[tuple[Path, ...], tuple[tuple[str, str], ...]]:
    """Return images and (caption, style) of a Hugging Face ImageFolder: ``metadata.jsonl`` with file_name and text.

    The style is the value of the key "style", or else the style word of the caption. Raises :class:`InputError` with
    the line that cannot be used.
    """
    table = root / "metadata.jsonl"
    try:
        lines = read_file(table, MAX_BYTES).decode("utf-8-sig").split("\n")  # a caption may hold other separators
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {table}: {error}", "use a folder with images and metadata.jsonl") from error
    rows = [_caption_row(table, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise InputError(f"{table} is empty", 'write lines such as {"file_name": "a.png", "text": "a street"}')
    return tuple(path for path, _ in rows), tuple(text for _, text in rows)


def _caption_row(table: Path, number: int, line: str) -> tuple[Path, tuple[str, str]]:
    try:
        values = parse_json(line)
        name, text = values["file_name"], next(values[key] for key in TEXT_KEYS if key in values)
        if not is_path(name) or not isinstance(text, str):
            raise TypeError
        path = find_named(table.parent, name)
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise InputError(
            f"{table}, line {number} is not a JSON object with file_name and one of {', '.join(TEXT_KEYS)}",
            'write lines such as {"file_name": "a.png", "text": "a street"}',
        ) from error
    if not path.is_file():
        raise InputError(f"{table}, line {number}: {path} does not exist", "add the image or remove the line")
    return path, (text, str(values.get("style") or style_of(text)))


def read_image(path: Path, factor: float = 1.0) -> np.ndarray:
    """Read an image file as uint8 [H, W, 3] RGB, both sides times ``factor`` (rounded down, bilinear, antialiased).

    Raises :class:`InputError` with the name of the file.
    """
    image = read_picture(path)
    height, width = scaled(image.shape, factor)
    if (height, width) == image.shape[:2]:
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def scaled(shape: tuple[int, ...], factor: float) -> tuple[int, int]:
    """Return (height, width) times ``factor``, at least 1; rounded down, as in dreambooth/train_dreambooth.py."""
    return max(1, int(shape[0] * factor)), max(1, int(shape[1] * factor))


def padded(image: np.ndarray, size: int) -> np.ndarray:
    """Pad ``image`` [H, W, 3] by reflection on the right and at the bottom to at least ``size`` pixels per side.

    Reflection keeps the image statistics; the label map is 255 (ignore) there.
    """
    missing = [max(0, size - side) for side in image.shape[:2]]
    if any(missing):
        image = np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="reflect")
    return np.ascontiguousarray(image)


def _read_padded(path: Path, factor: float, size: int) -> np.ndarray:
    return padded(read_image(path, factor), size)


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} cannot be read as an image: {error}", "copy it again, or remove it from the data")
