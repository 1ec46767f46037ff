"""Reports to look at: confusion matrices as images, and one self-contained HTML page with the worst predictions."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dgkit.data.labelmap import colorize
from dgkit.evaluation.benchmark.page_parts import document, image_tag, legend, picture_tag
from dgkit.evaluation.benchmark.score_report import class_names, figure, figure_rows, percent
from dgkit.labels import IGNORE
from dgkit.taxonomies import CITYSCAPES19, Taxonomy, find_taxonomy

HEIGHT = 220  # pixels, of the images on the page
_CELL, _LEFT, _TOP = 34, 110, 130
_INK, _FAINT, _RIGHT, _WRONG = (30, 32, 36), (140, 144, 150), (236, 240, 244), (204, 38, 38)


@dataclass(frozen=True)
class Card:
    """One image of the gallery; ``strip`` from :func:`picture_strip`, ``score`` as text."""

    title: str
    score: str
    strip: tuple[Image.Image, ...]


def confusion_picture(matrix: np.ndarray, title: str, names: Sequence[str] = CITYSCAPES19.names) -> Image.Image:
    """Draw ``matrix``, int64 [K,K] of the classes ``names``, in percent of each row; rows are labels."""
    side = len(names) * _CELL
    picture = Image.new("RGB", (_LEFT + side + 12, _TOP + side + 12), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    small, medium = ImageFont.load_default(size=11), ImageFont.load_default(size=13)
    draw.text((8, 8), title, _INK, font=ImageFont.load_default(size=16))
    draw.text((8, 32), "rows: label, columns: prediction, percent of the row", _FAINT, font=medium)
    rows = matrix.sum(1, keepdims=True)
    shares = np.divide(matrix, rows, out=np.zeros(matrix.shape), where=rows > 0)
    for row, name in enumerate(names):
        y = _TOP + row * _CELL
        ink = _INK if rows[row, 0] else _FAINT
        draw.text((_LEFT - 6, y + _CELL // 2), name, ink, font=small, anchor="rm")
        picture.paste(_upright(name, small), (_LEFT + row * _CELL + 10, _TOP - 78))
        for column in range(len(names)):
            share, x = float(shares[row, column]), _LEFT + column * _CELL
            draw.rectangle((x, y, x + _CELL - 2, y + _CELL - 2), fill=_shade(share, row == column))
            if share >= 0.005:
                text_ink = (255, 255, 255) if share > 0.55 else _INK
                draw.text((x + _CELL // 2, y + _CELL // 2), f"{100 * share:.0f}", text_ink, font=small, anchor="mm")
    return picture


def _upright(text: str, font: Any) -> Image.Image:
    label = Image.new("RGB", (76, 14), (255, 255, 255))
    ImageDraw.Draw(label).text((0, 0), text, _INK, font=font)
    return label.rotate(90, expand=True)


def _shade(share: float, right: bool) -> tuple[int, int, int]:
    full = (22, 104, 76) if right else (176, 36, 36)
    weight = share**0.6  # keeps small shares of errors visible
    red, green, blue = (round(244 + (value - 244) * weight) for value in full)
    return red, green, blue


def picture_strip(
    image: np.ndarray, label: np.ndarray, predicted: np.ndarray, taxonomy: Taxonomy = CITYSCAPES19
) -> tuple[Image.Image, ...]:
    """Return (photograph, label, prediction, errors), each :data:`HEIGHT` pixels high.

    ``image``: uint8 [H,W,3] RGB; ``label`` and ``predicted``: uint8 train ids of the same size. Errors are red, ignored
    pixels black.
    """
    errors = np.empty((*label.shape, 3), np.uint8)
    errors[:] = _RIGHT
    errors[label != predicted] = _WRONG
    errors[label == IGNORE] = 0
    photograph = Image.fromarray(image)
    size = (max(1, round(photograph.width * HEIGHT / photograph.height)), HEIGHT)
    maps = (colorize(label, taxonomy), colorize(predicted, taxonomy), errors)
    return (
        photograph.resize(size, Image.Resampling.LANCZOS),
        *(Image.fromarray(values).resize(size, Image.Resampling.NEAREST) for values in maps),
    )


def gallery(result: dict[str, Any], cards: dict[str, list[Card]], out: Path) -> str:
    """Return the HTML page: scores, confusion matrices (read from ``out``) and the worst images, all in one file."""
    title = f"{Path(result['segmenter']['path']).name}, protocol {result['protocol']['name']}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        _facts(result),
        _table(result),
        legend(find_taxonomy(result.get("taxonomy"))),
    ]
    for name, shown in cards.items():
        matrix = out / f"confusion-{name}.png"
        parts.append(f"<h2>{html.escape(name)}</h2>")
        parts.append(f"<details><summary>Confusion matrix</summary>{image_tag(matrix.read_bytes(), 'png')}</details>")
        if shown:
            parts.append("<p>Lowest mIoU first: photograph, label, prediction, errors.</p>")
        parts += [_figure(card) for card in shown]
    return document(title, parts)


def _facts(result: dict[str, Any]) -> str:
    skipped = sum(part["count"] for part in result["bad_files"]["skipped"])
    lines = [
        f"Protocol: {result['protocol']['description']}.",
        *(f"Labels of {name}: {'; '.join(scores['labels'])}." for name, scores in result["sets"].items()),
        *([f"Test-time augmentation: {result['test_time_augmentation']}."] if result["test_time_augmentation"] else []),
        *([f"{skipped} bad files were skipped; report.json lists them."] if skipped else []),
    ]
    return "<p>" + "<br>".join(html.escape(line) for line in lines) + "</p>"


def _table(result: dict[str, Any]) -> str:
    sets = result["sets"]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in sets)
    rows = [("images", [str(scores["images"]) for scores in sets.values()])]
    rows.append(("mIoU", [percent(scores["miou"]) for scores in sets.values()]))
    rows += [(text, [figure(scores.get(key)) for scores in sets.values()]) for key, text in figure_rows(result).items()]
    rows += [(name, [percent(scores["iou"][name]) for scores in sets.values()]) for name in class_names(result)]
    lines = "".join(
        f"<tr><td>{html.escape(name)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n"
        for name, cells in rows
    )
    means = "".join(f"<p>{name}: {percent(value)}</p>" for name, value in result["averages"].items())
    return f'<div class="scroll"><table><tr><th></th>{head}</tr>\n{lines}</table></div>{means}'


def _figure(card: Card) -> str:
    photograph, *maps = card.strip
    pictures = picture_tag(photograph, "JPEG") + "".join(picture_tag(one, "PNG") for one in maps)
    caption = f"{html.escape(card.title)}: mIoU {card.score}"
    return f'<figure><div class="strip">{pictures}</div><figcaption>{caption}</figcaption></figure>'
