"""Conditions of images: attributes of BDD100K, styles of generated folders, and data sets without any."""

import json
from pathlib import Path

import pytest

from dgkit.data.samples import Dataset, Sample
from dgkit.errors import InputError
from dgkit.evaluation.benchmark.image_conditions import find_conditions, folder_conditions, stated_conditions


def dataset(name: str, root: Path, split: str = "val", condition: str = "") -> Dataset:
    samples = tuple(
        Sample(stem, root / f"{stem}.png", root / "images" / f"{stem}.jpg", "train_ids", condition)
        for stem in ("a", "b", "c")
    )
    return Dataset(name, root, split, samples)


def write_attributes(root: Path, content: object, name: str = "labels/bdd100k_labels_images_val.json") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_attributes_of_bdd100k(tmp_path: Path) -> None:
    frames = [
        {"name": "a.jpg", "attributes": {"weather": "rainy", "timeofday": "night", "scene": "highway"}},
        {"name": "b.jpg", "attributes": {"weather": "clear", "timeofday": "night"}},
        {"name": "other.jpg", "attributes": {"weather": "snowy"}},
        {"name": "c.jpg"},
        "damaged",
    ]
    write_attributes(tmp_path, frames)
    found = dataset("bdd100k", tmp_path)
    expected = {"scene highway": ["a"], "timeofday night": ["a", "b"], "weather clear": ["b"], "weather rainy": ["a"]}
    assert stated_conditions(found, found.samples) == expected
    write_attributes(tmp_path, {"frames": frames}, "labels/sem_seg/polygons/sem_seg_val.json")
    assert stated_conditions(found, found.samples) == expected
    every = dataset("bdd100k", tmp_path, "all")
    assert stated_conditions(every, every.samples) == expected
    path = write_attributes(tmp_path, 3)
    with pytest.raises(InputError, match="holds no list of images"):
        stated_conditions(found, found.samples)
    path.write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        stated_conditions(found, found.samples)


def test_styles_of_a_generated_folder(tmp_path: Path) -> None:
    lines = [{"image": f"images/{name}.jpg", "style": style} for name, style in (("a", "snow"), ("c", "fog"))]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = dataset("dgkit", tmp_path, "all")
    assert stated_conditions(found, found.samples) == {"style fog": ["c"], "style snow": ["a"]}


def test_data_sets_without_conditions(tmp_path: Path) -> None:
    city, night = dataset("cityscapes", tmp_path), dataset("dark_zurich", tmp_path, condition="night")
    assert folder_conditions(night.samples) == {"night": ["a", "b", "c"]}
    samples = {one.name: one.samples for one in (city, night)}
    lines: list[str] = []
    assert find_conditions([city, night], samples, lines.append) == {"cityscapes": {}, "dark_zurich": {}}
    assert lines == ["cityscapes: its files state no conditions"]
    with pytest.raises(InputError, match="no data set states conditions: cityscapes") as caught:
        find_conditions([city], samples)
    assert "sem_seg_val.json" in caught.value.hint
    assert find_conditions([city], samples, required=False) == {"cityscapes": {}}  # all metrics
