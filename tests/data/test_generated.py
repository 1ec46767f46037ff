"""Reading generated folders, and refusing what is not one."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgkit.data import manifest
from dgkit.data.generated import check_files, find_agreement, list_scenes, open_generated
from dgkit.data.labelmap import write_label
from dgkit.errors import InputError
from tests.generated import HEIGHT, WIDTH, make_generated, make_image, make_job


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_generated(tmp_path_factory.mktemp("generated") / "scenes")


def filter_by_hand(out: Path, *numbers: int) -> None:
    """Write the manifest of `dgkit filter` for some scenes."""
    lines = [line for line in manifest.read(out / "manifest.jsonl") if line["index"] in numbers]
    (out / "labels_filtered").mkdir()
    text = "".join(
        json.dumps(line | {"label": line["label"].replace("labels/", "labels_filtered/"), "agreement": 0.25}) + "\n"
        for line in lines
    )
    (out / "labels_filtered" / "manifest.jsonl").write_text(text)


def test_scenes_settings_and_counts(generated: Path) -> None:
    folder = open_generated(generated)
    assert [record["index"] for record in folder.records] == list(range(7))
    assert folder.size == (HEIGHT, WIDTH) and folder.name == "scenes"
    assert folder.styles == {"snowy": 2, "sunny": 2, "foggy": 1, "night": 1, "rainy": 1}
    assert folder.crop_classes == {"car": 3, "train": 2}


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder of dgkit generate") as error:
        open_generated(tmp_path)
    assert error.value.hint == "pass a folder that dgkit generate wrote"


def test_an_unfinished_folder_is_refused_unless_partial_is_set(tmp_path: Path) -> None:
    out = make_generated(tmp_path / "out", 5, written=3)
    with pytest.raises(InputError, match="3 of 5 scenes") as caught:
        open_generated(out)
    assert "dgkit generate" in caught.value.hint
    assert len(open_generated(out, partial=True).records) == 3


@pytest.mark.parametrize(
    ("key", "value"), [("image", "../secret.png"), ("label", "/etc/passwd"), ("id", "a/b"), ("prompt", None)]
)
def test_a_line_that_names_other_files_is_refused(tmp_path: Path, key: str, value: str | None) -> None:
    out = make_generated(tmp_path / "out", 1)
    line = json.loads((out / "manifest.jsonl").read_text())
    line = {k: v for k, v in line.items() if k != key} | ({} if value is None else {key: value})
    (out / "manifest.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(InputError, match="does not describe a scene of this folder"):
        open_generated(out)


def rewrite_line(out: Path, key: str, text: str) -> None:
    """Give the only line of a manifest another value, as JSON text."""
    line = json.loads((out / "manifest.jsonl").read_text())
    values = [f"{json.dumps(name)}: {text if name == key else json.dumps(value)}" for name, value in line.items()]
    (out / "manifest.jsonl").write_text("{" + ", ".join(values) + "}\n")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("seed", "1e999"), ("seed", "NaN"), ("seed", '"1"'), ("seed", str(2**64)), ("index", "1.5"), ("index", '"0"'),
        ("prompt", r'"\ud800"'), ("prompt", "[1]"), ("id", '"' + "a" * 300 + '"'), ("id", r'"a\u0000b"'), ("id", '""'),
        ("crop", "[NaN, 0, 1, 1]"), ("crop", "[1, 2, 3]"), ("crop", "{}"), ("class", "7"), ("style", "null"),
        ("image", r'"images/a\u0000.png"'), ("label", "12"), ("image", '"' + "a" * 300 + '"'), ("image_sha256", '"x"'),
        ("source", "[" * 5000 + "]" * 5000),
    ],
    ids=lambda value: value[:12],
)  # fmt: skip
def test_values_of_the_wrong_kind_are_refused(tmp_path: Path, key: str, text: str) -> None:
    out = make_generated(tmp_path / "out", 1)
    rewrite_line(out, key, text)
    for read in (open_generated, list_scenes):
        with pytest.raises(InputError, match=r"manifest\.jsonl") as caught:
            read(out)
        assert len(caught.value.message) < 600


def test_a_manifest_of_windows(tmp_path: Path) -> None:
    out = make_generated(tmp_path / "out", 1)
    before = open_generated(out).records, list_scenes(out)
    for key in ("image", "label", "vis"):
        rewrite_line(out, key, json.dumps(before[0][0][key].replace("/", "\\")))
    assert (open_generated(out).records, list_scenes(out)) == before


def test_scenes_of_a_manifest(generated: Path) -> None:
    scenes = list_scenes(generated)
    assert [scene.style for scene in scenes] == [make_job(index).style for index in range(7)]
    assert scenes[0].class_name == "car" and scenes[0].source == "a-test.v1" and scenes[0].crop == (3, 5, WIDTH, HEIGHT)
    assert scenes[0].sha256 == scenes[0].digests()
    read = scenes[1].read()
    assert read.id == scenes[1].id and read.style == scenes[1].style
    assert np.array_equal(read.image, make_image(1)) and np.array_equal(read.label, make_job(1).label)
    check_files(generated, scenes)


def test_filtered_labels(tmp_path: Path) -> None:
    out = make_generated(tmp_path / "out", 3)
    for call in (lambda: list_scenes(out, filtered=True), lambda: open_generated(out, filtered=True)):
        with pytest.raises(InputError, match="no complete filtered labels") as caught:
            call()
        assert "dgkit filter" in caught.value.hint
    filter_by_hand(out, 0, 2)
    paths = [f"labels_filtered/{make_job(index).id}_labelTrainIds.png" for index in (0, 2)]
    assert [str(scene.label.relative_to(out)) for scene in list_scenes(out, filtered=True)] == paths
    records = open_generated(out, filtered=True).records
    assert [record["label"] for record in records] == paths and records[0]["prompt"] == make_job(0).prompt
    assert find_agreement(open_generated(out)) == [0.25, None, 0.25]
    (out / "labels_filtered" / "manifest.jsonl").write_text("")
    for call in (lambda: list_scenes(out, filtered=True), lambda: open_generated(out, filtered=True)):
        with pytest.raises(InputError, match="keeps none of the scenes") as caught:
            call()
        assert "--min-agreement" in caught.value.hint


def test_no_agreement_was_measured(generated: Path) -> None:
    assert find_agreement(open_generated(generated)) is None


def test_pairs_of_a_folder_without_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match="holds no labelled images"):
        list_scenes(tmp_path)
    (tmp_path / "labels" / "sub").mkdir(parents=True)
    (tmp_path / "images" / "sub").mkdir()
    for name in ("a.png", "sub/b.JPG"):
        Image.fromarray(make_image(0)).save(tmp_path / "images" / name)
        write_label((tmp_path / "labels" / name).with_suffix(".png"), make_job(0).label)
    scenes = list_scenes(tmp_path, refuse_unlabelled=True)
    assert [(scene.id, scene.style, scene.crop) for scene in scenes] == [("a", "none", None), ("b", "none", None)]
    with pytest.raises(InputError, match=r"states no image_sha256 or label_sha256 of images/a\.png"):
        check_files(tmp_path, scenes)
    Image.fromarray(make_image(0)).save(tmp_path / "images" / "c.png")
    assert list_scenes(tmp_path) == scenes
    with pytest.raises(InputError, match=r"c\.png has no label map"):
        list_scenes(tmp_path, refuse_unlabelled=True)


def test_a_line_without_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text('{"image": "a.png", "label": "b.png"}\n{"image": "c.png"}\n')
    with pytest.raises(InputError, match=r"manifest\.jsonl, line 2: no usable path under 'label'"):
        list_scenes(tmp_path)


def test_missing_and_changed_files_are_named(tmp_path: Path) -> None:
    out = make_generated(tmp_path / "out", 3)
    scenes = list_scenes(out)
    scenes[1].image.write_bytes(b"changed")
    check_files(out, scenes, digests=False)
    with pytest.raises(InputError, match=r"1 generated files differ from their SHA-256 .*: images/000001"):
        check_files(out, scenes)
    scenes[2].label.unlink()
    with pytest.raises(InputError, match=r"1 generated files are missing: labels/000002"):
        check_files(out, scenes, digests=False)
    with pytest.raises(InputError, match="has no label map"):
        scenes[2].read()
    with pytest.raises(InputError, match="No such file"):
        scenes[2].digests()
