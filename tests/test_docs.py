"""The documentation names what the code has."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from dgkit.data.colour_maps import COLOURS
from dgkit.data.layouts import LAYOUTS
from dgkit.diffusion.presets import PRESETS
from dgkit.labels import CLASSES, ENCODINGS

ROOT = Path(__file__).resolve().parents[1]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_data_page_lists_layouts_encodings_and_classes() -> None:
    text = page("guides/data.md")
    rows = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert rows == [*ENCODINGS_IN_ORDER, COLOURS, *LAYOUTS]
    classes = {int(number): name for number, name in re.findall(r"\| (\d+) \| ([a-z ]+?) (?=\|)", text)}
    assert classes == dict(enumerate(CLASSES))


ENCODINGS_IN_ORDER = ["train_ids", "cityscapes_ids", "synthia", "camvid", "mapillary_a", "mapillary_b"]


def test_encodings_are_all_documented() -> None:
    assert set(ENCODINGS_IN_ORDER) == set(ENCODINGS)


def test_method_page_lists_presets_and_style_mixes() -> None:
    from dgkit.data.style_mixes import load_style_mix
    from dgkit.prompts import STYLES

    text = page("design/method.md")
    assert all(f"| `{name}`" in text for name in PRESETS)
    rows = re.findall(r"^\| `(official|published|uniform)`[^|]*\|((?:[^|]*\|){5}[^|]*)\|$", text, re.MULTILINE)
    assert len(rows) == 3
    for name, cells in rows:
        weights = load_style_mix(name).weights
        total = sum(weights.values())
        for style, cell in zip([*STYLES, "none"], cells.split("|"), strict=True):
            above, _, below = cell.strip().partition("/")
            assert weights.get(style, 0) / total == pytest.approx(float(above) / float(below or 1))


def python_blocks(name: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page(name), re.MULTILINE | re.DOTALL)


def test_python_of_the_data_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, ids in (("a.png", 7), ("b.png", 23)):
        Image.fromarray(np.full((256, 512), ids, np.uint8)).save(name)
    shown: list[tuple[int, int]] = []
    monkeypatch.setattr(Image.Image, "show", lambda image: (shown.append(image.size), image.close()))
    (block,) = python_blocks("guides/data.md")
    exec(block.replace("count=4", 'count=1, model="random:tiny", preset="one-pass", steps=1'), {})
    assert shown == [(64, 64)]


def test_python_of_the_model_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Open the embedded model in diffusers, with its one-hot condition, and sample with dgkit."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.repeat(np.uint8([10, 2, 0, 13]), 64)[:, None].repeat(256, 1)).save("label.png")
    with_diffusers, with_dgkit = python_blocks("guides/model-folders.md")
    names: dict[str, Any] = {}
    exec(with_diffusers.replace("num_inference_steps=20", "num_inference_steps=1"), names)
    assert names["image"].size == (256, 256)
    assert names["condition"].shape == (1, 20, 256, 256) and names["condition"].sum() == 256 * 256
    exec(with_dgkit.replace('"fast"', '"one-pass:steps=1"'), names)
    assert names["image"].shape == (256, 256, 3)


def test_command_line_page_is_current(tmp_path: Path) -> None:
    pinned = re.search(r"^typer==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    if typer.__version__ != pinned.group(1):
        pytest.skip(f"written with typer {pinned.group(1)}; this one is {typer.__version__} and may word it otherwise")
    recipe = re.search(r"-m (typer .*) --output docs/reference/cli.md$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    command = [sys.executable, "-m", *shlex.split(recipe.group(1)), "--output", str(tmp_path / "cli.md")]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    assert (tmp_path / "cli.md").read_text() == page("reference/cli.md"), "type: make docs"
