"""Order, ids and photographs of the label maps in a folder, as users have them."""

import os
import unicodedata
from pathlib import Path

from dgkit.data.datasets import labels_folder, open_dataset
from tests.data.trees import write_ids, write_many


def test_order_does_not_depend_on_the_disk(tmp_path: Path) -> None:
    for stem in ("b", "a", "c"):
        write_ids(tmp_path / "z" / f"{stem}.png")
        write_ids(tmp_path / f"{stem}.png")
    dataset = labels_folder(tmp_path)
    assert [s.id for s in dataset.samples] == ["a", "b", "c", "z_a", "z_b", "z_c"]


def test_ids_are_unique_even_if_joined_names_collide(tmp_path: Path) -> None:
    for name in ("a_b.png", "a/b.png", "c/b.png", "d/a_b.png"):
        write_ids(tmp_path / name)
    ids = [s.id for s in labels_folder(tmp_path).samples]
    assert len(set(ids)) == 4


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    write_ids(tmp_path / "far" / "00001.png")
    (tmp_path / "gta").mkdir()
    (tmp_path / "gta" / "labels").symlink_to(tmp_path / "far")
    assert len(open_dataset("gta", tmp_path / "gta").samples) == 1


def test_endings_count_in_any_case(tmp_path: Path) -> None:
    write_many(tmp_path, ["labels/A.PNG.png", "labels/b.png", "images/b.png"])
    (tmp_path / "labels" / "A.PNG.png").rename(tmp_path / "labels" / "A.PNG")
    (tmp_path / "images" / "b.png").rename(tmp_path / "images" / "b.Jpg")
    found = labels_folder(tmp_path).samples
    assert [(s.id, s.label.name, s.image and s.image.name) for s in found] == [
        ("A", "A.PNG", None),
        ("b", "b.png", "b.Jpg"),
    ]
    city = tmp_path / "city"
    write_many(
        city,
        [
            "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png",
            "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png",
        ],
    )
    for path in (*city.rglob("*labelIds.png"), *city.rglob("*leftImg8bit.png")):
        path.rename(path.with_name(path.name.upper().replace("AACHEN", "aachen")))
    (sample,) = open_dataset("cityscapes", city).samples
    assert sample.id == "aachen_000000_000019" and sample.image is not None


def test_hidden_folders_hold_no_label_maps(tmp_path: Path) -> None:
    names = ["a.png", ".ipynb_checkpoints/a-checkpoint.png", "@eaDir/a.png/SYNOPHOTO_THUMB_XL.png", "__MACOSX/._a.png"]
    write_many(tmp_path, [f"labels/{name}" for name in names])
    assert [sample.id for sample in labels_folder(tmp_path).samples] == ["a"]


def test_a_split_that_links_to_another_counts_once(tmp_path: Path) -> None:
    write_many(tmp_path, ["labels/train/a.png", "images/train/a.png"])
    (tmp_path / "labels" / "training").symlink_to("train")
    assert len(open_dataset("bdd100k", tmp_path, "train").samples) == 1


def test_accents_may_be_composed_or_not(tmp_path: Path) -> None:
    write_many(
        tmp_path, [f"labels/{unicodedata.normalize('NFC', 'é')}.png", f"images/{unicodedata.normalize('NFD', 'é')}.png"]
    )
    assert labels_folder(tmp_path).samples[0].image is not None


def test_ids_are_printable_and_unique(tmp_path: Path) -> None:
    for name in (b"a\nb.png", b"a\rb.png", b"stra\xdfe.png"):
        write_ids(tmp_path / "a.png").rename(tmp_path / os.fsdecode(name))
    assert [s.id for s in labels_folder(tmp_path).samples] == ["a\ufffdb", "a\ufffdb_2", "stra\ufffde"]
