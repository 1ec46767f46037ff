"""The contact sheet: thumbnails of images next to their labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dgkit.data.labelmap import colorize, read_label
from dgkit.data.pictures import read_picture
from dgkit.taxonomies import CITYSCAPES19, Taxonomy

MAX_CELLS = 24
THUMBNAIL_HEIGHT = 192  # pixels
TARGET_WIDTH = 1680  # pixels of a sheet with enough images
GAP = 12
CAPTION = 26
BACKGROUND, INK, FAINT = (22, 24, 29), (236, 236, 232), (150, 153, 160)
STYLE_INKS = {
    "sunny": (255, 205, 92),
    "snowy": (214, 232, 255),
    "rainy": (116, 170, 230),
    "foggy": (190, 192, 196),
    "night": (160, 140, 255),
}


@dataclass(frozen=True)
class Cell:
    """One image and label of the sheet; ``label`` is an 8-bit PNG of train ids."""

    image: Path
    label: Path
    style: str
    note: str


@dataclass(frozen=True)
class Thumbnail:
    """A picture of the sheet, :data:`THUMBNAIL_HEIGHT` pixels high, with the name of its style and a note below it."""

    picture: Image.Image
    style: str
    note: str


def choose(styles: Sequence[str], limit: int = MAX_CELLS) -> list[int]:
    """Return the indices of at most ``limit`` images, in order, with the styles as balanced as possible."""
    if len(styles) <= limit:
        return list(range(len(styles)))
    rank: dict[str, int] = {}
    rounds = []
    for index, style in enumerate(styles):
        rank[style] = rank.get(style, -1) + 1
        rounds.append((rank[style], index))
    return sorted(index for _, index in sorted(rounds)[:limit])


def contact_sheet(
    cells: Sequence[Cell], title: str, footnote: str = "", taxonomy: Taxonomy = CITYSCAPES19
) -> Image.Image:
    """Return the sheet, which depends on the files and texts alone. Raises ValueError without cells."""
    if not cells:
        raise ValueError("a contact sheet needs at least one image")
    pairs = [Thumbnail(_pair(cell, taxonomy), cell.style, cell.note) for cell in cells]
    return sheet_of([pairs], title, footnote, taxonomy)


def sheet_of(
    groups: Sequence[Sequence[Thumbnail]], title: str, footnote: str = "", taxonomy: Taxonomy = CITYSCAPES19
) -> Image.Image:
    """Return a sheet on which each group of thumbnails, of which there is at least one, begins a line."""
    cell_width = max(thumbnail.picture.width for group in groups for thumbnail in group)
    columns = max(1, min(max(map(len, groups)), (TARGET_WIDTH - GAP) // (cell_width + GAP)))
    lines = [group[start : start + columns] for group in groups for start in range(0, len(group), columns)]
    width = max(GAP + columns * (cell_width + GAP), 640)
    legend = _legend(width - 2 * GAP, taxonomy)
    header = 44 + (18 if footnote else 0)
    height = header + len(lines) * (THUMBNAIL_HEIGHT + CAPTION) + legend.height + 2 * GAP
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 12), title, INK, font=ImageFont.load_default(size=20))
    draw.text((GAP, 40), footnote, FAINT, font=ImageFont.load_default(size=12))
    for row, line in enumerate(lines):
        for column, thumbnail in enumerate(line):
            x, y = GAP + column * (cell_width + GAP), header + row * (THUMBNAIL_HEIGHT + CAPTION)
            sheet.paste(thumbnail.picture, (x, y))
            _write_caption(draw, thumbnail, x, y + THUMBNAIL_HEIGHT + 4)
    sheet.paste(legend, (GAP, height - legend.height - GAP))
    return sheet


def _pair(cell: Cell, taxonomy: Taxonomy) -> Image.Image:
    image = of_image(read_picture(cell.image))
    label = of_label(read_label(cell.label, taxonomy=taxonomy), taxonomy)
    pair = Image.new("RGB", (2 * image.width, THUMBNAIL_HEIGHT))
    pair.paste(image, (0, 0))
    pair.paste(label, (image.width, 0))
    return pair


def of_image(image: np.ndarray) -> Image.Image:
    """Return the thumbnail of an image, uint8 [H, W, 3] RGB."""
    return _resized(Image.fromarray(image), Image.Resampling.LANCZOS)


def of_label(label: np.ndarray, taxonomy: Taxonomy = CITYSCAPES19) -> Image.Image:
    """Return the thumbnail of a label map, uint8 train ids [H, W], in the colours of its classes."""
    return _resized(Image.fromarray(colorize(label, taxonomy)), Image.Resampling.NEAREST)


def _resized(picture: Image.Image, method: Image.Resampling) -> Image.Image:
    return picture.resize((max(1, round(picture.width * THUMBNAIL_HEIGHT / picture.height)), THUMBNAIL_HEIGHT), method)


def _write_caption(draw: ImageDraw.ImageDraw, thumbnail: Thumbnail, x: int, y: int) -> None:
    style = "no style" if thumbnail.style == "none" else thumbnail.style
    bold, small = ImageFont.load_default(size=14), ImageFont.load_default(size=12)
    draw.text((x, y), style, STYLE_INKS.get(thumbnail.style, FAINT), font=bold)
    left = x + draw.textlength(style, font=bold) + 10
    note = " ".join(thumbnail.note.split())
    while note and left + draw.textlength(note, font=small) > x + thumbnail.picture.width:
        note = note[:-1]
    draw.text((left, y + 2), note, FAINT, font=small)


def _legend(width: int, taxonomy: Taxonomy) -> Image.Image:
    """Return the colour and name of every class, in lines of at most ``width`` pixels."""
    font = ImageFont.load_default(size=12)
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    entries, x, y = [], 0, 0
    for name in (*taxonomy.names, "ignored"):
        step = 18 + int(probe.textlength(name, font=font)) + 14
        if x + step > width:
            x, y = 0, y + 20
        entries.append((x, y, name))
        x += step
    legend = Image.new("RGB", (width, y + 20), BACKGROUND)
    draw = ImageDraw.Draw(legend)
    colours = [*(tuple(int(value) for value in row) for row in taxonomy.palette), (0, 0, 0)]
    for (x, y, name), colour in zip(entries, colours, strict=True):
        draw.rectangle((x, y + 3, x + 12, y + 15), fill=colour, outline=FAINT)
        draw.text((x + 18, y + 2), name, FAINT, font=font)
    return legend
