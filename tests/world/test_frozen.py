"""Scenes of ``source`` and ``prior`` never change, because models are trained on them.

``frozen.json`` holds, for a few small scenes, the CRC of the label map and a thumbnail of mean colours. Labels must
agree exactly; colours within a few levels, because processors differ in the last bit of a float.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from dgkit.prompts import STYLES
from dgkit.world import Scene, render

HEIGHT, WIDTH, CELL = 64, 128, 8
PICTURES = Path(__file__).with_name("frozen.json")
CASES = [("source", i, None) for i in range(3)] + [("prior", 3 + i, s) for i, s in enumerate((*STYLES, "none"))]
TOLERANCE = 2


def facts(role: str, index: int, style: str | None) -> dict[str, object]:
    scene = render(role, 11, index, height=HEIGHT, width=WIDTH, style=style)
    return {"label": zlib.crc32(scene.label.tobytes()), "colours": thumbnail(scene).ravel().tolist()}


def thumbnail(scene: Scene) -> np.ndarray:
    """Return the mean colour of each 8x8 block, int [8, 16, 3]."""
    blocks = scene.image.reshape(HEIGHT // CELL, CELL, WIDTH // CELL, CELL, 3)
    return np.rint(blocks.mean((1, 3))).astype(int)


@pytest.mark.parametrize(("role", "index", "style"), CASES)
def test_scenes_of_frozen_roles_have_not_changed(role: str, index: int, style: str | None) -> None:
    stored = json.loads(PICTURES.read_text(encoding="utf-8"))[f"{role} {index} {style}"]
    found = facts(role, index, style)
    assert found["label"] == stored["label"]
    difference = np.abs(np.array(found["colours"]) - np.array(stored["colours"]))
    assert difference.max() <= TOLERANCE


def test_a_small_change_of_colour_would_be_detected() -> None:
    stored = json.loads(PICTURES.read_text(encoding="utf-8"))["source 0 None"]
    scene = render("source", 11, 0, height=HEIGHT, width=WIDTH)
    brighter = Scene(np.minimum(scene.image, 250) + np.uint8(4), scene.label, scene.caption, scene.style)
    assert np.abs(thumbnail(brighter).ravel() - np.array(stored["colours"])).max() > TOLERANCE
