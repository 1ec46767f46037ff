"""Small label maps, and settings that make a run of ``generate`` take a second or two, for tests."""

from pathlib import Path

import numpy as np
from PIL import Image

# Every setting that dgkit would choose for the machine is stated. Two images share a block.
FAST = {"steps": 1, "batch": 4, "preset": "exact", "engine": "torch", "dtype": "fp32", "workers": 0}
FAST_FLAGS = ("--set", "steps=1", *(word for name in ("batch", "preset", "engine", "dtype", "workers")
                                    for word in (f"--{name}", str(FAST[name]))))  # fmt: skip


def make_label(seed: int, height: int = 96, width: int = 160) -> np.ndarray:
    """uint8 train ids: sky, buildings, road, blocks of other classes, strips of ignore across and at the bottom."""
    rng = np.random.default_rng(seed)
    label = np.full((height, width), 10, np.uint8)
    label[height // 4 :] = 2
    label[height // 2 :] = 0
    for class_id in rng.permutation([1, 4, 5, 7, 8, 11, 13, 16, 18])[:6]:
        y, x = rng.integers(height - 24), rng.integers(width - 24)
        label[y : y + rng.integers(12, 24), x : x + rng.integers(12, 24)] = class_id
    label[44:50] = 255  # in every crop of 64 pixels from a map of 96
    label[-4:] = 255
    return label


def make_labels(folder: Path, count: int = 4) -> Path:
    """A folder of label maps ``0.png``, ``1.png``, ..."""
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(make_label(number)).save(folder / f"{number}.png")
    return folder


def snapshot(folder: Path, skip: str = "") -> dict[str, bytes]:
    """Return the content of every file below ``folder`` by its path, hidden ones included, except the path ``skip``."""
    files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    files.pop(skip, None)
    return files
