"""Label maps and photographs, class names, cached class counts."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.fuzz.checks import attempt
from tests.fuzz.mutations import (
    Document,
    broken_bytes,
    odd_file,
)
from tests.fuzz.pictures import make_jpeg, make_png


def read_label_file(rng: random.Random, folder: Path) -> None:
    from dgkit.data.datasets import labels_folder
    from dgkit.data.index import build_index
    from dgkit.data.labelmap import label_size, read_label
    from dgkit.labels import ENCODINGS

    path = folder / "labels" / "a.png"
    encoding = rng.choice(list(ENCODINGS))
    attempt(
        lambda: label_size(path),
        lambda: read_label(path, encoding),
        lambda: build_index(labels_folder(folder / "labels")) if rng.random() < 0.1 else None,
    )


def damage_label_file(rng: random.Random, folder: Path) -> None:
    path = folder / "labels" / "a.png"
    if rng.random() < 0.04:
        odd_file(rng, path)
    else:
        size = rng.choice(((24, 32), (24, 32), (1, 1), (3, 300)))
        path.write_bytes(make_png(rng, *size, rng.choice((0, 0, 3, None))))


def damage_photograph(rng: random.Random, folder: Path) -> None:
    path = folder / "images" / "a.jpg"
    if rng.random() < 0.04:
        odd_file(rng, path)
        return
    size = rng.choice(((24, 32), (24, 32), (1, 1), (3, 300)))
    path.write_bytes(make_jpeg(rng, *size) if rng.random() < 0.6 else make_png(rng, *size))
    if rng.random() < 0.5:
        path.rename(path.with_name("a.png"))


def make_pair(folder: Path) -> None:
    for name in ("images/a.jpg", "labels/a.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((24, 32), np.uint8)).save(path)


def read_photograph(rng: random.Random, folder: Path) -> None:
    from dgkit.data.datasets import labels_folder
    from dgkit.data.generated import list_scenes
    from dgkit.data.pairs import read_pair
    from dgkit.data.pictures import read_picture
    from dgkit.evaluation.benchmark.eval_sets import check_dataset, read_sample
    from dgkit.training.data import image_files

    path = next((folder / "images").iterdir())

    def evaluate() -> None:
        from dgkit.evaluation.benchmark.eval_sets import BadSample

        found = labels_folder(folder / "labels")
        with suppress(BadSample):
            for sample in check_dataset(found, 1)[0]:
                read_sample("x", sample)

    attempt(
        lambda: read_picture(path),
        lambda: image_files.read_image(path, rng.choice((1.0, 0.5))),
        lambda: [scene.read() for scene in list_scenes(folder)],
        lambda: [read_pair(sample) for sample in labels_folder(folder / "labels").samples if sample.image],
        evaluate,
    )


def make_mapillary(folder: Path) -> None:
    names = ("Road", "Car", "Sky", "Void")
    labels = [{"name": f"x--{name}", "readable": name, "color": [1, 2, 3], "evaluate": True} for name in names]
    (folder / "config.json").write_text(json.dumps({"labels": labels, "version": 1.2}))


def read_mapillary(rng: random.Random, folder: Path) -> None:
    from dgkit.data.labelmap import encode, find_encoding

    name = f"mapillary_b@{folder / 'config.json'}"
    find_encoding.__globals__["_mapillary_encoding"].cache_clear()
    find_encoding(name)
    encode(np.zeros((2, 2), np.uint8), name)


def make_cache(folder: Path) -> None:
    from dgkit.data.datasets import labels_folder
    from dgkit.data.index import build_index

    make_pair(folder)
    build_index(labels_folder(folder / "labels"), cache=folder / "cache.npz")


def damage_cache(rng: random.Random, folder: Path) -> None:
    path = folder / "cache.npz"
    if rng.random() < 0.1:
        odd_file(rng, path)
    elif rng.random() < 0.5:
        path.write_bytes(broken_bytes(rng, path.read_bytes()))
    else:
        with np.load(path) as archive:
            arrays = dict(archive)
        name = rng.choice(list(arrays))
        if name == "header":
            header = json.loads(arrays["header"].tobytes())
            text = Document(rng, header).mutated(1).text().encode("utf-8", "surrogatepass")
            arrays["header"] = np.frombuffer(text, np.uint8)
        else:
            choices: Sequence[Any] = (
                np.zeros(0),
                np.full((1, 19), -1), np.full((1, 19), 1e300), np.array(["x"]), np.zeros((5, 19)), np.array(3),
            )  # fmt: skip
            arrays[name] = rng.choice(choices)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        path.write_bytes(buffer.getvalue())


def read_cache(rng: random.Random, folder: Path) -> None:
    from dgkit.data.datasets import labels_folder
    from dgkit.data.index import build_index

    build_index(labels_folder(folder / "labels"), cache=folder / "cache.npz")
