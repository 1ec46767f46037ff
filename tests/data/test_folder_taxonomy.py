"""Label maps of other classes: import, colours, counts, and folders that state their classes."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from dgkit.cli.app import main
from dgkit.data.datasets import label_arrays, labels_folder, open_dataset
from dgkit.data.generated import list_scenes
from dgkit.data.index import build_index
from dgkit.data.labelmap import colorize, find_encoding, read_label, write_label
from dgkit.errors import InputError, LabelError, UsageError
from dgkit.taxonomies import CAMVID11, CITYSCAPES19, find_taxonomy
from tests.test_taxonomies import YARD

YARD3 = find_taxonomy(YARD)


def save(path: Path, array: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(array, np.uint8)).save(path)
    return path


def test_ids_of_a_file_become_class_numbers(tmp_path: Path) -> None:
    save(tmp_path / "a.png", [[0, 1, 2], [7, 9, 255]])
    dataset = labels_folder(tmp_path, taxonomy=YARD3)
    assert dataset.taxonomy is YARD3
    assert dataset.samples[0].train_ids().tolist() == [[2, 0, 0], [1, 255, 255]]
    index = build_index(dataset)
    assert index.counts.tolist() == [[2, 1, 1]]
    assert index.digest != build_index(label_arrays([dataset.samples[0].ids()], "ids", YARD3)).digest
    with pytest.raises(LabelError, match="unknown ids 77 for ids") as caught:
        read_label(save(tmp_path / "b.png", [[77]]), "ids", YARD3)
    assert "the file of yard" in caught.value.hint


def test_counts_are_cached_by_taxonomy(tmp_path: Path) -> None:
    save(tmp_path / "labels" / "a.png", [[0, 1, 2]])
    cache = tmp_path / "counts.npz"
    assert build_index(labels_folder(tmp_path, taxonomy=YARD3), cache=cache).counts.tolist() == [[2, 0, 1]]
    assert build_index(labels_folder(tmp_path, taxonomy=CAMVID11), cache=cache).counts.shape == (1, 11)
    assert build_index(labels_folder(tmp_path), cache=cache).counts.shape == (1, 19)


def test_colours(tmp_path: Path) -> None:
    label = np.array([[0, 1, 2, 255]], np.uint8)
    assert colorize(label, YARD3)[0].tolist() == [[128, 64, 128], [0, 0, 200], [70, 130, 180], [0, 0, 0]]
    path = save(tmp_path / "c.png", colorize(label, YARD3))
    assert (read_label(path, "colours", YARD3) == label).all()
    (tmp_path / "c.csv").write_text("crane,1,2,3\n", encoding="utf-8")
    found = read_label(save(tmp_path / "d.png", [[[1, 2, 3]]]), f"colours@{tmp_path / 'c.csv'}", YARD3)
    assert found.tolist() == [[1]]
    with pytest.raises(LabelError):
        colorize(np.array([[4]], np.uint8), YARD3)


def test_id_systems_of_cityscapes_are_converted_by_the_table(tmp_path: Path) -> None:
    assert find_encoding("cityscapes_ids", YARD3).table[[7, 8, 11, 23]].tolist() == [0, 0, 255, 2]
    save(tmp_path / "gta" / "labels" / "1.png", [[7, 23, 11]])
    assert open_dataset("gta", tmp_path / "gta", taxonomy=YARD3).samples[0].train_ids().tolist() == [[0, 2, 255]]
    save(tmp_path / "bdd" / "seg/labels/train" / "1_train_id.png", [[0, 10, 2]])
    assert open_dataset("bdd", tmp_path / "bdd", taxonomy=YARD3).samples[0].train_ids().tolist() == [[0, 2, 255]]
    bare = find_taxonomy({**YARD, "map": {}})
    with pytest.raises(InputError, match="only cityscapes19 has road, sidewalk") as caught:
        open_dataset("gta", tmp_path / "gta", taxonomy=bare)
    assert "add a table 'map: {cityscapes19: ...}' to the file of yard" in caught.value.hint
    with pytest.raises(UsageError, match="unknown encoding 'idds'; known encodings: train_ids, ids, colours"):
        find_encoding("idds", YARD3)


def generated(folder: Path, taxonomy: object) -> Path:
    save(folder / "labels" / "a.png", [[0, 1, 2]])
    save(folder / "images" / "a.png", np.zeros((1, 3, 3)))
    (folder / "manifest.jsonl").write_text('{"id": "a", "image": "images/a.png", "label": "labels/a.png"}\n')
    (folder / "config.yaml").write_text(yaml.safe_dump({"count": 1, **({"taxonomy": taxonomy} if taxonomy else {})}))
    return folder


def test_a_generated_folder_states_its_classes(tmp_path: Path) -> None:
    folder = generated(tmp_path / "yard", YARD3.document())
    assert list_scenes(folder)[0].sample.taxonomy == YARD3
    assert labels_folder(folder, taxonomy=YARD3).samples[0].train_ids().tolist() == [[0, 1, 2]]
    for read in (labels_folder, list_scenes):
        with pytest.raises(InputError, match=r"with the classes of cityscapes19: .*only yard has lane"):
            read(folder, taxonomy=CITYSCAPES19)
    with pytest.raises(InputError, match="cannot be used with the classes of camvid11"):
        open_dataset("dgkit", folder, taxonomy=CAMVID11)


def test_a_generated_folder_of_cityscapes_is_mapped(tmp_path: Path) -> None:
    folder = generated(tmp_path / "city", None)
    assert list_scenes(folder)[0].sample.taxonomy is CITYSCAPES19
    assert labels_folder(folder, taxonomy=YARD3).samples[0].train_ids().tolist() == [[0, 0, 255]]
    assert list_scenes(folder, taxonomy=YARD3)[0].read().label.tolist() == [[0, 0, 255]]
    (folder / "config.yaml").write_text("taxonomy: [1]\n")
    with pytest.raises(InputError, match="taxonomy is not a name or a mapping"):
        list_scenes(folder)


def test_written_labels_hold_the_classes_alone(tmp_path: Path) -> None:
    write_label(tmp_path / "a.png", np.array([[0, 2, 255]], np.uint8), YARD3)
    assert read_label(tmp_path / "a.png", "train_ids", YARD3).tolist() == [[0, 2, 255]]
    with pytest.raises(LabelError, match="holds id 3"):
        write_label(tmp_path / "b.png", np.array([[3]], np.uint8), YARD3)


def test_stats_of_own_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "maps" / "a.png", [[0, 1, 7]])
    (tmp_path / "yard.yaml").write_text(yaml.safe_dump(YARD), encoding="utf-8")
    arguments = ["stats", "--labels", str(tmp_path / "maps"), "--size", "16"]
    assert main([*arguments, "--taxonomy", str(tmp_path / "yard.yaml")]) == 0
    assert "crane" in capsys.readouterr().out
    assert main([*arguments, "--taxonomy", "yard"]) == 2
    assert "unknown taxonomy 'yard'" in capsys.readouterr().err
