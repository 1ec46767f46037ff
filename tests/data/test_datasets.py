"""Every layout of the public data sets, as tiny trees on disk."""

import json
from pathlib import Path

import numpy as np
import pytest

from dgkit.data.datasets import labels_folder, open_dataset, open_source
from dgkit.data.labelmap import find_encoding, read_label
from dgkit.data.layouts import LAYOUTS, PAIRS
from dgkit.data.pairs import check_pairs, read_pair
from dgkit.data.samples import Dataset
from dgkit.errors import InputError, UsageError
from tests.data.trees import write_ids, write_image, write_many, write_synthia_label

CITY = "aachen/aachen_000000_000019"
# name of the set, requested split, files on disk, expected samples: (id, label, photograph, encoding, condition)
Expected = list[tuple[str, str, str | None, str, str]]
CASES: dict[str, tuple[str, str | None, list[str], Expected]] = {
    "gta": (
        "gta",
        None,
        [
            "labels/00001.png",
            "labels/00002.png",
            "labels/00002_labelTrainIds.png",
            "images/00001.png",
            "images/00002.png",
        ],
        [
            ("00001", "labels/00001.png", "images/00001.png", "cityscapes_ids", ""),
            ("00002", "labels/00002_labelTrainIds.png", "images/00002.png", "train_ids", ""),
        ],
    ),
    "gta_in_splits": (
        "gta",
        "val",
        ["labels/train/folder/00001.png", "labels/valid/folder/00002.png", "images/valid/folder/00002.png"],
        [("00002", "labels/valid/folder/00002.png", "images/valid/folder/00002.png", "cityscapes_ids", "")],
    ),
    "synthia": (
        "synthia",
        None,
        ["GT/LABELS/0000000.png", "GT/LABELS/0000001.png", "GT/LABELS/0000001_labelTrainIds.png", "RGB/0000000.png"],
        [
            ("0000000", "GT/LABELS/0000000.png", "RGB/0000000.png", "synthia", ""),
            ("0000001", "GT/LABELS/0000001_labelTrainIds.png", None, "train_ids", ""),
        ],
    ),
    "cityscapes_without_train_ids": (
        "cityscapes",
        None,
        [
            f"gtFine/train/{CITY}_gtFine_labelIds.png",
            f"gtFine/train/{CITY}_gtFine_instanceIds.png",
            f"gtFine/train/{CITY}_gtFine_color.png",
            f"gtFine/val/{CITY}_gtFine_labelIds.png",
            f"leftImg8bit/train/{CITY}_leftImg8bit.png",
        ],
        [
            (
                "aachen_000000_000019",
                f"gtFine/train/{CITY}_gtFine_labelIds.png",
                f"leftImg8bit/train/{CITY}_leftImg8bit.png",
                "cityscapes_ids",
                "",
            )
        ],
    ),
    "cityscapes_nested": (
        "cityscapes",
        "val",
        [
            f"gtFine_trainvaltest/gtFine/val/{CITY}_gtFine_labelTrainIds.png",
            f"gtFine_trainvaltest/gtFine/val/{CITY}_gtFine_labelIds.png",
            f"leftImg8bit_trainvaltest/leftImg8bit/val/{CITY}_leftImg8bit.png",
        ],
        [
            (
                "aachen_000000_000019",
                f"gtFine_trainvaltest/gtFine/val/{CITY}_gtFine_labelTrainIds.png",
                f"leftImg8bit_trainvaltest/leftImg8bit/val/{CITY}_leftImg8bit.png",
                "train_ids",
                "",
            )
        ],
    ),
    "bdd100k": (
        "bdd100k",
        "val",
        ["labels/sem_seg/masks/val/a.png", "labels/sem_seg/masks/train/b.png", "images/10k/val/a.jpg"],
        [("a", "labels/sem_seg/masks/val/a.png", "images/10k/val/a.jpg", "train_ids", "")],
    ),
    "bdd100k_older": (
        "bdd100k",
        None,
        ["labels/train/a_train_id.png", "labels/train/a_train_color.png", "images/train/a.jpg"],
        [("a", "labels/train/a_train_id.png", "images/train/a.jpg", "train_ids", "")],
    ),
    "bdd100k_seg": (
        "bdd100k",
        None,
        ["seg/labels/train/a_train_id.png", "seg/images/train/a.jpg"],
        [("a", "seg/labels/train/a_train_id.png", "seg/images/train/a.jpg", "train_ids", "")],
    ),
    "mapillary_a": (
        "mapillary",
        "val",
        [
            "validation/labels/x.png",
            "validation/labels/x_labelTrainIds.png",
            "training/labels/y.png",
            "validation/images/x.jpg",
        ],
        [("x", "validation/labels/x.png", "validation/images/x.jpg", "mapillary_a", "")],
    ),
    "mapillary_b": (
        "mapillary_b",
        None,
        ["training/v1.2/labels/x.png", "training/v2.0/labels/x.png", "training/images/x.jpg"],
        [("x", "training/v1.2/labels/x.png", "training/images/x.jpg", "mapillary_b", "")],
    ),
    "mapillary_v2": (
        "mapillary_v2",
        None,
        ["training/v1.2/labels/x.png", "training/v2.0/labels/x.png", "training/images/x.jpg"],
        [("x", "training/v2.0/labels/x.png", "training/images/x.jpg", "mapillary_b@ROOT/config_v2.0.json", "")],
    ),
    "acdc_by_condition": (
        "acdc",
        "val",
        [
            "gt/fog/val/GOPR0476/GOPR0476_frame_000854_gt_labelTrainIds.png",
            "gt/fog/val/GOPR0476/GOPR0476_frame_000854_gt_labelIds.png",
            "gt/fog/val/GOPR0476/GOPR0476_frame_000854_gt_labelColor.png",
            "gt/fog/val_ref/GOPR0476/GOPR0476_frame_000900_gt_labelTrainIds.png",
            "gt/night/val/GOPR0351/GOPR0351_frame_000159_gt_labelIds.png",
            "rgb_anon/fog/val/GOPR0476/GOPR0476_frame_000854_rgb_anon.png",
        ],
        [
            (
                "GOPR0476_frame_000854",
                "gt/fog/val/GOPR0476/GOPR0476_frame_000854_gt_labelTrainIds.png",
                "rgb_anon/fog/val/GOPR0476/GOPR0476_frame_000854_rgb_anon.png",
                "train_ids",
                "fog",
            ),
            (
                "GOPR0351_frame_000159",
                "gt/night/val/GOPR0351/GOPR0351_frame_000159_gt_labelIds.png",
                None,
                "cityscapes_ids",
                "night",
            ),
        ],
    ),
    "acdc_flat": (
        "acdc",
        None,
        ["gt/train/GOPR0607_frame_000410_gt_labelTrainIds.png", "rgb_anon/train/GOPR0607_frame_000410_rgb_anon.png"],
        [
            (
                "GOPR0607_frame_000410",
                "gt/train/GOPR0607_frame_000410_gt_labelTrainIds.png",
                "rgb_anon/train/GOPR0607_frame_000410_rgb_anon.png",
                "train_ids",
                "",
            )
        ],
    ),
    "dark_zurich": (
        "dark_zurich",
        None,
        [
            "gt/val/night/GOPR0356/GOPR0356_frame_000321_gt_labelTrainIds.png",
            "gt/val/night/GOPR0356/GOPR0356_frame_000321_gt_invGray.png",
            "rgb_anon/val/night/GOPR0356/GOPR0356_frame_000321_rgb_anon.png",
            "rgb_anon/train/day/GOPR0350/GOPR0350_frame_000001_rgb_anon.png",
        ],
        [
            (
                "GOPR0356_frame_000321",
                "gt/val/night/GOPR0356/GOPR0356_frame_000321_gt_labelTrainIds.png",
                "rgb_anon/val/night/GOPR0356/GOPR0356_frame_000321_rgb_anon.png",
                "train_ids",
                "night",
            )
        ],
    ),
    "camvid": (
        "camvid",
        "all",
        ["trainannot/a.png", "train/a.jpg", "valannot/b.png", "val/b.png"],
        [
            ("a", "trainannot/a.png", "train/a.jpg", "camvid", ""),
            ("b", "valannot/b.png", "val/b.png", "camvid", ""),
        ],
    ),
    "own_output": (
        "dgkit",
        None,
        ["labels/000000_car_labelTrainIds.png", "images/000000_car.png", "vis/000000_car.png"],
        [("000000_car", "labels/000000_car_labelTrainIds.png", "images/000000_car.png", "train_ids", "")],
    ),
}


def listing(dataset: Dataset) -> Expected:
    def name(path: Path | None) -> str | None:
        return None if path is None else path.relative_to(dataset.root).as_posix()

    return [
        (s.id, str(name(s.label)), name(s.image), s.encoding.replace(str(dataset.root), "ROOT"), s.condition)
        for s in dataset.samples
    ]


@pytest.mark.parametrize("case", CASES)
def test_layout(tmp_path: Path, case: str) -> None:
    name, split, files, expected = CASES[case]
    dataset = open_dataset(name, write_many(tmp_path, files), split)
    assert listing(dataset) == expected
    assert dataset.name == name and dataset.split == (split or LAYOUTS[name].default_split)


def test_every_layout_has_a_case() -> None:
    assert {case[0] for case in CASES.values()} == set(LAYOUTS) - {PAIRS}
    for layout in LAYOUTS.values():
        for tree in layout.trees:
            for _, encoding in tree.suffixes:
                assert encoding is None or find_encoding(encoding)


def test_the_label_of_each_special_form_reads(tmp_path: Path) -> None:
    write_ids(tmp_path / "gta/labels/00001.png", np.array([[7, 26]]), palette=True)
    write_synthia_label(tmp_path / "synthia/GT/LABELS/0000000.png", np.array([[3, 8]]))
    write_ids(tmp_path / "mapillary/training/v2.0/labels/x.png", np.array([[1, 0]]), palette=True)
    names = {"labels": [{"readable": "Car"}, {"readable": "Road"}]}
    (tmp_path / "mapillary/config_v2.0.json").write_text(json.dumps(names))
    for name, folder in (("gta", "gta"), ("synthia", "synthia"), ("mapillary_v2", "mapillary")):
        sample = open_dataset(name, tmp_path / folder).samples[0]
        assert read_label(sample.label, sample.encoding).tolist() == [[0, 13]], name


def test_real_camvid(shared_folder: Path) -> None:
    root = shared_folder / "data" / "camvid"
    assert [len(open_dataset("camvid", root, split).samples) for split in ("train", "val", "all")] == [367, 101, 468]
    dataset = open_dataset("camvid", root, "val")
    assert all(sample.image for sample in dataset.samples)
    check_pairs(dataset)
    image, label = read_pair(dataset.samples[0])
    assert image.shape == (360, 480, 3) and label.shape == (360, 480)


# --- plain folders ----------------------------------------------------------------------------------------------------


def test_plain_folder(tmp_path: Path) -> None:
    for name in ("a.png", "a_labelTrainIds.png", "b_labelIds.png", "b_color.png", "c.png", ".c.png.7.tmp", "d.txt"):
        write_ids(tmp_path / "x.png").rename(tmp_path / name)
    assert listing(labels_folder(tmp_path)) == [
        ("a", "a_labelTrainIds.png", None, "train_ids", ""),
        ("b", "b_labelIds.png", None, "cityscapes_ids", ""),
        ("c", "c.png", None, "train_ids", ""),
    ]
    encodings = [s.encoding for s in labels_folder(tmp_path, "camvid").samples]
    assert encodings == ["train_ids", "cityscapes_ids", "camvid"]


def test_folder_with_labels_and_images_inside(tmp_path: Path) -> None:
    write_many(tmp_path, ["labels/a_labelTrainIds.png", "images/a.jpg", "vis/a.png"])
    assert listing(labels_folder(tmp_path)) == [("a", "labels/a_labelTrainIds.png", "images/a.jpg", "train_ids", "")]


def test_real_gta_folder(shared_folder: Path) -> None:
    ids = [s.id for s in labels_folder(shared_folder / "data" / "gta_labels").samples]
    assert ids == ["06835", "06901", "14813"]


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_unknown_names_and_splits(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown data set 'kitti'; known data sets: gta, synthia"):
        open_dataset("kitti", tmp_path)
    with pytest.raises(UsageError, match="unknown split 'vla'; known splits: train, val, test, all"):
        open_dataset("gta", tmp_path, "vla")
    with pytest.raises(UsageError, match="unknown encoding"):
        labels_folder(tmp_path, "kitti")


@pytest.mark.parametrize("name", sorted(set(LAYOUTS) - {PAIRS}))
def test_an_empty_folder_says_what_was_searched(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        open_dataset(name, tmp_path)
    assert str(tmp_path) in caught.value.message and "searched" in caught.value.message and caught.value.hint


def test_a_path_that_is_not_a_folder(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="no such folder"):
        labels_folder(tmp_path / "absent")
    with pytest.raises(InputError, match="a file, not a folder"):
        open_dataset("gta", write_ids(tmp_path / "a.png"))
    with pytest.raises(InputError, match="no PNG files"):
        labels_folder(empty)


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(InputError, match="Permission denied") as caught:
        labels_folder(tmp_path)
    assert "chmod" in caught.value.hint


def test_sources_of_a_command(tmp_path: Path) -> None:
    write_many(tmp_path, ["trainannot/a.png", "valannot/b.png"])
    assert open_source(dataset=f"camvid={tmp_path}", split="val").samples[0].id == "b"
    assert open_source(tmp_path / "trainannot", encoding="camvid").samples[0].encoding == "camvid"
    for arguments in (
        {},
        {"labels": tmp_path, "dataset": "gta=x"},
        {"labels": tmp_path, "split": "val"},
        {"dataset": "gta"},
        {"dataset": "gta="},
        {"dataset": f"camvid={tmp_path}", "encoding": "camvid"},
    ):
        with pytest.raises(UsageError):
            open_source(**arguments)  # type: ignore[arg-type]


# --- files as users have them -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", ["_gtFine", "_gt"])
def test_a_labels_folder_as_unzipped(tmp_path: Path, mark: str) -> None:
    kinds = ["labelIds", "labelTrainIds", "color", "labelColor", "instanceIds", "panoptic", "invIds", "invColor"]
    write_many(tmp_path, [f"gt/ulm_1{mark}_{kind}.png" for kind in kinds])
    (sample,) = labels_folder(tmp_path / "gt").samples
    assert (sample.label.name, sample.encoding) == (f"ulm_1{mark}_labelTrainIds.png", "train_ids")


def test_a_folder_of_colour_maps_says_so(tmp_path: Path) -> None:
    write_many(tmp_path, ["gt/a_gt_labelColor.png", "gt/a_gt_invIds.png"])
    with pytest.raises(InputError, match=r"2 colour, instance or invalid maps such as a_gt_invIds\.png") as caught:
        labels_folder(tmp_path / "gt")
    assert "*_labelTrainIds.png" in caught.value.hint


def test_data_sets_have_the_names_of_roles_too(tmp_path: Path) -> None:
    root = write_many(tmp_path / "night", ["gt/val/night/G/a_gt_labelTrainIds.png"])
    assert open_dataset("darkzurich", root, "val") == open_dataset("dark_zurich", root, "val")
    with pytest.raises(InputError, match="BDD100K"):
        open_dataset("bdd", root)


def test_a_missing_split_is_reported_with_those_that_exist(tmp_path: Path) -> None:
    root = write_many(tmp_path / "acdc", ["gt/fog/train/G/a_gt_labelTrainIds.png", "gt/fog/test/G/b_gt_labelIds.png"])
    with pytest.raises(InputError, match=r"split val, below .*; it holds train and test") as raised:
        open_dataset("acdc", root, "val")
    assert "--split train" in raised.value.hint


def test_label_maps_by_a_pattern(tmp_path: Path) -> None:
    for name in ("b/x/1.png", "b/y/1.png", "b/y/2.PNG", "b/.hidden.png", "c/3.png"):
        write_ids(tmp_path / name, np.full((4, 4), 7, np.uint8))
    (tmp_path / "b" / "notes.txt").touch()
    dataset = open_source(labels=tmp_path / "b" / "**" / "*.*", encoding="cityscapes_ids")
    assert [sample.id for sample in dataset.samples] == ["x_1", "y_1", "2"]
    assert dataset.root == tmp_path / "b" and (dataset.samples[0].train_ids() == 0).all()
    with pytest.raises(InputError, match=r"no PNG files match .*: it matches 1 other file$"):
        open_source(labels=tmp_path / "b" / "*.txt")
    write_ids(tmp_path / "odd[1]" / "a.png", np.zeros((4, 4), np.uint8))
    assert open_source(labels=tmp_path / "odd[1]").samples[0].id == "a"  # a folder that exists is no pattern


def test_pairs_by_two_patterns(tmp_path: Path) -> None:
    for name in ("p/x/1.jpg", "p/y/1.jpg", "p/z/aachen_3_leftImg8bit.jpg", "p/5.jpg", "p/w/5.jpg"):
        write_image(tmp_path / name)
    for name in ("m/x/1.png", "m/y/1_labelIds.png", "m/q/aachen_3_gtFine_labelIds.png", "m/4.png", "m/v/5.png"):
        write_ids(tmp_path / name, np.full((4, 4), 7, np.uint8))
    dataset = open_dataset("pairs", f"{tmp_path}/p/**/*.jpg::{tmp_path}/m/**/*.png::cityscapes_ids")
    images = {
        str(s.label.relative_to(tmp_path / "m")): s.image and str(s.image.relative_to(tmp_path / "p"))
        for s in dataset.samples
    }
    assert images == {
        "4.png": None, "q/aachen_3_gtFine_labelIds.png": "z/aachen_3_leftImg8bit.jpg", "v/5.png": None,
        "x/1.png": "x/1.jpg", "y/1_labelIds.png": "y/1.jpg",
    }  # fmt: skip
    assert (dataset.name, dataset.split, dataset.samples[0].encoding) == ("pairs", "all", "cityscapes_ids")
    with pytest.raises(UsageError, match="is not IMAGES::LABELS"):
        open_source(dataset=f"pairs={tmp_path}")
    with pytest.raises(InputError, match="no photographs match"):
        open_dataset("pairs", f"{tmp_path}/m/*.png2::{tmp_path}/m/**/*.png")
