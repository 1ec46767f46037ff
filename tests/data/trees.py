"""Tiny data sets in every layout."""

import os
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image


def write_ids(path: Path, ids: np.ndarray | None = None, palette: bool = False) -> Path:
    """An 8-bit PNG of ids (by default 4x6 of the id 0)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.zeros((4, 6), np.uint8) if ids is None else np.asarray(ids, np.uint8))
    if palette:
        picture.putpalette([i % 256 for i in range(768)])
    picture.save(path)
    return path


def write_image(path: Path, height: int = 4, width: int = 6) -> Path:
    """A grey photograph."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 90, 90)).save(path)
    return path


def write_many(root: Path, names: Iterable[str]) -> Path:
    """Files below ``root``: ids where a name says label, mask, annot, gt or LABELS, photographs elsewhere."""
    for name in names:
        folder = f"/{name.rpartition('/')[0]}/"
        is_label = any(part in folder for part in ("label", "LABELS", "/masks/", "annot/", "/gt/", "/gtFine/"))
        (write_ids if is_label else write_image)(root / name)
    return root


def write_synthia_label(path: Path, ids: np.ndarray) -> Path:
    """16 bits, three channels, ids in the red one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((*ids.shape, 3), np.uint16)
    pixels[..., 2] = ids
    pixels[..., 1] = 1234
    cv2.imwrite(str(path), pixels)
    return path


def end_process(_: object) -> None:
    """What a system short of memory does to a process."""
    os._exit(9)
