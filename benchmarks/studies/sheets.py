"""Contact sheets of a trained model: every style of the same labels, and swapped against unswapped.

    python benchmarks/studies/sheets.py WORK          after ideas.py WORK, which makes the unswapped model

WORK is a finished `dgkit train city` folder. The labels are crops of source scenes that no stage was trained on. Writes
styles.jpg (label, then the styles, preset exact) and swap.jpg (label, then the styles with the prior's UNet and, below,
with the UNet that the ControlNet was trained with, one pass) to docs/images.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dgkit.data.labelmap import colorize
from dgkit.diffusion.loading import load_pipeline
from dgkit.diffusion.presets import find_preset
from dgkit.diffusion.sampler import SceneRequest, sample
from dgkit.prompts import STYLES, caption, compose
from dgkit.world import render

SEED = 6_000  # of the scenes; training, judge and ideas.py use others
GAP, HEADER, INK, PAPER = 6, 26, (20, 20, 20), (255, 255, 255)


def paint(model: Path, labels: list[np.ndarray], preset: str, dtype: str) -> list[list[np.ndarray]]:
    """Return an image uint8 [S,S,3] for each label and style."""
    requests = [
        SceneRequest(label, compose(caption(label), style), SEED + row)
        for row, label in enumerate(labels)
        for style in STYLES
    ]
    with load_pipeline(model, dtype=dtype) as pipeline:
        images = [result.image for result in sample(pipeline, requests, find_preset(preset))]
    return [images[i : i + len(STYLES)] for i in range(0, len(images), len(STYLES))]


def sheet(rows: list[list[np.ndarray]], names: list[str], out: Path) -> None:
    """Write rows of pictures of one size under a line of ``names``."""
    side = rows[0][0].shape[0]
    step = side + GAP
    page = Image.new("RGB", (len(rows[0]) * step - GAP, HEADER + len(rows) * step - GAP), PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(16)
    for column, name in enumerate(names):
        draw.text((column * step + 4, 3), name, INK, font)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            page.paste(Image.fromarray(picture), (x * step, HEADER + y * step))
    page.save(out, quality=88)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--rows", type=int, default=4, help="label maps of styles.jpg; swap.jpg has half as many")
    parser.add_argument("--size", type=int, default=256, help="side of the model's images [pixels]")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[2] / "docs" / "images")
    given = parser.parse_args()
    scenes = [render("source", SEED, i, height=given.size, width=2 * given.size).label for i in range(given.rows)]
    labels = [np.ascontiguousarray(scene[:, given.size // 2 :][:, : given.size]) for scene in scenes]
    colours = [colorize(label) for label in labels]
    names = ["label", *STYLES]
    painted = paint(given.work / "model", labels, "exact", given.dtype)
    sheet([[c, *row] for c, row in zip(colours, painted, strict=True)], names, given.out / "styles.jpg")
    some = labels[: max(1, given.rows // 2)]
    swapped = paint(given.work / "model", some, "one-pass", given.dtype)
    unswapped = paint(given.work / "ideas" / "unswapped", some, "one-pass", given.dtype)
    pairs = [[c, *row] for c, *both in zip(colours, swapped, unswapped, strict=False) for row in both]
    sheet(pairs, names, given.out / "swap.jpg")


if __name__ == "__main__":
    main()
