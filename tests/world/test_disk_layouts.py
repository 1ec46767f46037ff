"""Layouts: the reader of the data set that a role stands in for returns the rendered labels."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgkit.data.datasets import open_dataset
from dgkit.data.labelmap import read_label
from dgkit.data.pairs import read_pair
from dgkit.errors import OutputError, UsageError
from dgkit.labels import ENCODINGS, MAPILLARY_NAMES, PALETTE
from dgkit.world import disk_layouts as disk
from dgkit.world import render, vistas, write_role

LABELLED = sorted(set(disk.DISK_LAYOUTS) - {"prior"})
CASES = [(role, split) for role in LABELLED for split in disk.DISK_LAYOUTS[role].splits]
HEIGHT = 48


def scenes(out: Path, role: str, split: str | None, count: int, **settings: int) -> dict[Path, int]:
    """Write scenes and return the index of each label path."""
    write_role(out, role, count, 5, height=HEIGHT, split=split, workers=1, **settings)
    split = disk.resolve_split(role, split)
    names = [disk.DISK_LAYOUTS[role].files(split, 5, number) for number in range(count)]
    return {out / path: disk.scene_index(split, n) for n, files in enumerate(names) for path, _ in files.labels}


@pytest.mark.parametrize(("role", "split"), CASES)
def test_the_loader_of_the_set_reads_equal_labels(tmp_path: Path, role: str, split: str | None) -> None:
    indices = scenes(tmp_path, role, split, 2)
    dataset = open_dataset(disk.DISK_LAYOUTS[role].dataset, tmp_path, split)
    assert len(dataset.samples) == 2
    for sample in dataset.samples:
        index = indices[sample.label]
        rows, columns = disk.size(role, 5, index, HEIGHT, None)
        scene = render(role, 5, index, height=rows, width=columns)
        image, label = read_pair(sample)
        assert np.array_equal(label, scene.label)
        difference = np.abs(image.astype(int) - scene.image)
        assert difference.mean() < 4 if sample.image and sample.image.suffix == ".jpg" else difference.max() == 0


@pytest.mark.parametrize("role", ["cityscapes", "acdc", "darkzurich"])
def test_both_id_systems_of_a_label_agree(tmp_path: Path, role: str) -> None:
    for path in scenes(tmp_path, role, None, 1):
        if path.name.endswith("_labelTrainIds.png"):
            ids = path.with_name(path.name.replace("labelTrainIds", "labelIds"))
            assert np.array_equal(read_label(ids, "cityscapes_ids"), read_label(path, "train_ids"))


def test_real_names_and_formats(tmp_path: Path) -> None:
    for role in ("cityscapes", "bdd", "acdc", "darkzurich", "mapillary"):
        scenes(tmp_path / role, role, "val", 1)
    found = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    patterns = (
        "cityscapes/leftImg8bit/val/*/*_000000_000019_leftImg8bit.png",
        "cityscapes/gtFine/val/*/*_000000_000019_gtFine_labelIds.png",
        "cityscapes/gtFine/val/*/*_000000_000019_gtFine_labelTrainIds.png",
        "bdd/images/10k/val/*-*.jpg",
        "bdd/labels/sem_seg/masks/val/*-*.png",
        "acdc/rgb_anon/fog/val/GOPR*/GOPR*_frame_000000_rgb_anon.png",
        "acdc/gt/fog/val/GOPR*/GOPR*_frame_000000_gt_labelIds.png",
        "acdc/gt/fog/val/GOPR*/GOPR*_frame_000000_gt_labelTrainIds.png",
        "darkzurich/rgb_anon/val/night/GOPR*/GOPR*_frame_000000_rgb_anon.png",
        "darkzurich/gt/val/night/GOPR*/GOPR*_frame_000000_gt_labelTrainIds.png",
        "darkzurich/gt/val/night/GOPR*/GOPR*_frame_000000_gt_labelIds.png",
        "mapillary/validation/images/??????????????????????.jpg",
        "mapillary/validation/labels/??????????????????????.png",
        "mapillary/config.json",
        *(f"{role}/world.json" for role in ("cityscapes", "bdd", "acdc", "darkzurich", "mapillary")),
    )
    matched = sorted(p.relative_to(tmp_path).as_posix() for pattern in patterns for p in tmp_path.glob(pattern))
    assert matched == found and len(found) == len(patterns)


def test_acdc_is_sorted_by_condition(tmp_path: Path) -> None:
    scenes(tmp_path, "acdc", "val", 8)
    dataset = open_dataset("acdc", tmp_path, "val")
    assert [sample.condition for sample in dataset.samples] == sorted(2 * ["fog", "night", "rain", "snow"])
    assert disk.scene_index("val", 0) % 4 == disk.scene_index("test", 0) % 4 == 0


def test_mapillary_mixes_sizes_unless_a_width_is_given(tmp_path: Path) -> None:
    sizes = {disk.size("mapillary", 1, index, 256, None) for index in range(60)}
    assert len(sizes) > 6
    assert all(192 <= rows <= 384 and rows % 8 == columns % 8 == 0 for rows, columns in sizes)
    assert {disk.size("mapillary", 1, index, 256, 400) for index in range(9)} == {(256, 400)}
    scenes(tmp_path, "mapillary", None, 1, width=64)
    with pytest.raises(OutputError, match="width"):
        scenes(tmp_path, "mapillary", None, 1)


def test_data_sets_keep_their_aspect_ratio() -> None:
    widths = {role: disk.fixed_width(role, 256, None) for role in disk.DISK_LAYOUTS}
    assert widths == {
        "source": 512, "prior": 512, "cityscapes": 512, "bdd": 456, "mapillary": None, "acdc": 456, "darkzurich": 456,
    }  # fmt: skip
    assert disk.fixed_width("bdd", 720, None) == 1280


def test_splits_share_a_folder_and_no_scene(tmp_path: Path) -> None:
    train, val = scenes(tmp_path, "cityscapes", "train", 3), scenes(tmp_path, "cityscapes", "val", 3)
    assert not set(train) & set(val) and not set(train.values()) & set(val.values())
    assert len(open_dataset("cityscapes", tmp_path, "all").samples) == 6
    read = [read_label(path, "train_ids") for path in (*train, *val) if path.name.endswith("TrainIds.png")]
    for i, one in enumerate(read):
        assert all((one != other).mean() > 0.05 for other in read[i + 1 :])
    spans = sorted(disk.SPLITS.values())
    assert min(b - a for a, b in pairwise(spans)) >= 1 << 30


@pytest.mark.parametrize(("role", "split"), [("darkzurich", "train"), ("prior", "val"), ("bdd", "minival")])
def test_an_unknown_split_is_refused(tmp_path: Path, role: str, split: str) -> None:
    with pytest.raises(UsageError, match=split):
        write_role(tmp_path / "out", role, 1, 0, height=HEIGHT, split=split, workers=1)
    assert not (tmp_path / "out").exists()


def test_mapillary_files_look_like_vistas(tmp_path: Path) -> None:
    (path, index), = scenes(tmp_path, "mapillary", None, 1).items()  # fmt: skip
    rows, columns = disk.size("mapillary", 5, index, HEIGHT, None)
    label = render("mapillary", 5, index, height=rows, width=columns).label
    with Image.open(path) as picture:
        assert picture.mode == "P"
        ids, colours = np.array(picture), np.array(picture.convert("RGB"))
    assert (ids[label == 0] == 13).all() and (ids[label == 255] == vistas.UNLABELLED).all()
    assert (colours[label == 0] == PALETTE[0]).all()
    labels = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["labels"]
    assert [entry["readable"] for entry in labels] == list(MAPILLARY_NAMES)
    assert all(labels[i]["color"] == vistas.palette()[i].tolist() for i in range(66))
    names = [entry["name"] for entry in labels]
    assert len(set(names)) == 66
    assert [names[i] for i in (5, 13, 20, 44, 50, 65)] == [
        "construction--barrier--other-barrier", "construction--flat--road", "human--rider--bicyclist",
        "object--street-light", "object--traffic-sign--front", "void--unlabeled",
    ]  # fmt: skip


@pytest.mark.parametrize("encoding", ["mapillary_a", "mapillary_b"])
def test_both_mappings_read_the_written_vistas_ids_back(encoding: str) -> None:
    train_ids = np.array([*range(19), 255], np.uint8)
    assert np.array_equal(ENCODINGS[encoding].table[vistas.table()[train_ids]], train_ids)


@pytest.mark.parametrize("role", ["mapillary", "acdc"])
def test_files_depend_neither_on_workers_nor_on_interruptions(tmp_path: Path, role: str) -> None:
    def files(folder: Path) -> dict[str, bytes]:
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    one, two = tmp_path / "one", tmp_path / "two"
    write_role(one, role, 3, 1, height=HEIGHT, workers=1)
    write_role(two, role, 3, 1, height=HEIGHT, workers=2)
    assert files(one) == files(two)
    removed = sorted(p for p in two.rglob("*.png"))[0]
    removed.unlink()
    steps: list[tuple[float, float]] = []
    write_role(two, role, 3, 1, height=HEIGHT, workers=1, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(2, 3), (3, 3)] and files(one) == files(two)
