"""Micro data sets and recipes for the segmenters' tests."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

GENERATED_CLASS = 18  # fills every generated label map and occurs in no source map


def write_pair(folder: Path, name: str, label: np.ndarray) -> tuple[Path, Path]:
    """Write ``images/name.png`` and ``labels/name_labelTrainIds.png``; the image is a function of the label map."""
    image, ids = folder / "images" / f"{name}.png", folder / "labels" / f"{name}_labelTrainIds.png"
    for path in (image, ids):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([label * 9, 255 - label, label * 5], axis=-1).astype(np.uint8)).save(image)
    Image.fromarray(label).save(ids)
    return image, ids


@pytest.fixture
def small_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give mit_b0 one block per stage instead of two; what trains and exports it takes half the time."""
    networks = pytest.importorskip("dgkit.training.segmenter.networks")
    monkeypatch.setitem(networks.MIT, "mit_b0", (32, (1, 1, 1, 1)))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four labelled images of 96x80: class 0 above, class 2 below, some ignore, and 5 columns of a rare class 5."""
    for number in range(4):
        label = np.zeros((80, 96), np.uint8)
        label[40:] = 2
        label[:4] = 255
        if number == 0:
            label[20:60, 70:75] = 5
        write_pair(tmp_path / "source", str(number), label)
    return tmp_path / "source"


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    """Three generated images with a manifest; their label maps hold class 18, and 19 for ignore."""
    folder = tmp_path / "generated"
    lines = []
    for number in range(3):
        label = np.full((64, 64), GENERATED_CLASS, np.uint8)
        label[:2] = 19
        image, ids = write_pair(folder, f"g{number}", label)
        digest = {
            f"{key}_sha256": hashlib.sha256(p.read_bytes()).hexdigest() for key, p in (("image", image), ("label", ids))
        }
        files = {"image": str(image.relative_to(folder)), "label": str(ids.relative_to(folder))}
        lines.append(json.dumps({"id": f"g{number}", **files, **digest}))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def micro(source: Path, generated: Path, tmp_path: Path) -> dict:
    """A recipe of two iterations on crops of 64 pixels."""
    return {
        "head": "segformer",
        "backbone": "mit_b0",
        "channels": 16,
        "data": {"source": {"root": str(source)}, "generated": [str(generated)], "crop": 64, "workers": 0},
        "train": {"steps": 2, "batch": 2, "warmup": 1, "checkpoint_every": 1},
        "out": str(tmp_path / "out"),
    }
