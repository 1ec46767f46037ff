"""Taxonomies: the built-in ones, files of users, and what is refused."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from dgkit.errors import DgkitError, InputError, UsageError
from dgkit.labels import CLASSES, ENCODINGS, PALETTE
from dgkit.taxonomies import BUILT_IN, CAMVID11, CITYSCAPES19, difference, find_taxonomy

YARD: dict[str, Any] = {
    "name": "yard",
    "classes": [
        {"name": "lane", "colour": [128, 64, 128], "ids": [1, 2], "prompt": "road"},
        {"name": "crane", "colour": [0, 0, 200], "ids": [7], "small": True, "thing": True},
        {"name": "sky", "colour": [70, 130, 180], "ids": [0]},
    ],
    "ignore": [9],
    "map": {"cityscapes19": {"road": "lane", "sidewalk": "lane", "sky": "sky"}},
}


def test_the_default_is_that_of_every_published_model() -> None:
    assert find_taxonomy() is CITYSCAPES19 and find_taxonomy("cityscapes19") is CITYSCAPES19
    assert CITYSCAPES19.names == CITYSCAPES19.prompt_names == CLASSES
    assert (CITYSCAPES19.palette == PALETTE).all() and CITYSCAPES19.channels == 20
    assert CITYSCAPES19.systems is ENCODINGS and CITYSCAPES19.recorded() is None
    assert CITYSCAPES19.things == (6, 7, *range(11, 19))
    assert len(CITYSCAPES19.small_names) == 7


def test_camvid() -> None:
    assert CAMVID11.channels == 12 and CAMVID11.names[0] == "sky" and CAMVID11.prompt_names[5] == "vegetation"
    assert CAMVID11.small_names == ("pole", "sign", "pedestrian", "bicyclist")
    assert CAMVID11.systems["camvid"].table[:12].tolist() == [*range(11), 255]
    assert CAMVID11.recorded() == "camvid11"


@pytest.mark.parametrize("taxonomy", BUILT_IN.values(), ids=str)
def test_pickles_by_content(taxonomy: Any) -> None:
    assert pickle.loads(pickle.dumps(taxonomy)) is taxonomy


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "yard.yaml"
    path.write_text(yaml.safe_dump(YARD), encoding="utf-8")
    yard = find_taxonomy(path)
    assert yard == find_taxonomy(YARD) == pickle.loads(pickle.dumps(yard)) == find_taxonomy(yard.document())
    assert hash(yard) == hash(find_taxonomy(YARD))
    assert (yard.size, yard.channels, yard.names) == (3, 4, ("lane", "crane", "sky"))
    assert yard.prompt_names == ("road", "crane", "sky") and yard.things == (1,) and yard.small_names == ("crane",)
    ids = yard.systems[yard.usual_encoding].table
    assert {i: int(v) for i, v in enumerate(ids) if v >= 0} == {0: 2, 1: 0, 2: 0, 7: 1, 9: 255, 255: 255}
    assert yard.table_from(CITYSCAPES19)[[0, 1, 2, 10, 255]].tolist() == [0, 0, 255, 2, 255]


def test_the_difference_is_named() -> None:
    assert "only camvid11 has pavement, tree" in difference(CITYSCAPES19, CAMVID11)
    other = find_taxonomy({**YARD, "classes": YARD["classes"][::-1]})
    assert "another order" in difference(find_taxonomy(YARD), other)
    with pytest.raises(InputError, match="cityscapes19 has 19 classes, camvid11 11") as caught:
        CITYSCAPES19.table_from(CAMVID11)
    assert caught.value.hint


def changed(**values: Any) -> dict[str, Any]:
    return {**YARD, **values}


CLASS = YARD["classes"][0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (changed(classes=[]), "has 0 classes; allowed are 1 to 254"),
        ({"name": "yard"}, "no list 'classes'"),
        (changed(classes=[{"name": f"c{i}", "colour": [i, 1, 1]} for i in range(256)]), "has 256 classes"),
        (changed(classes=[CLASS, {**CLASS, "name": "Lane", "colour": [1, 1, 1]}]), "the name 'lane' is that of two"),
        (changed(classes=[CLASS, {**CLASS, "name": "b", "ids": [4]}]), r"the colour \(128, 64, 128\) is that of two"),
        (changed(classes=[{"name": "a", "colour": [1, 2, 256]}]), "colour.2=256 is not allowed"),
        (changed(classes=[{"name": "a", "colour": [0, 0, 0]}]), "is black, as ignored pixels are"),
        (changed(classes=[{"name": "void", "colour": [1, 2, 3]}]), "reserved names"),
        (changed(classes=[{"name": "a/b", "colour": [1, 2, 3]}]), "classes.0.name='a/b' is not allowed"),
        (changed(classes=[{"colour": [1, 2, 3]}]), "classes.0.name is required"),
        (changed(classes=[CLASS, {"name": "b", "colour": [1, 1, 1], "ids": [2]}]), "in encoding ids the id 2"),
        (changed(ignore=[7]), "in encoding ids the id 7 is that of two"),
        (changed(ignore=[256]), "ignore.0=256 is not allowed"),
        (changed(encodings={"raw": {"lane": [1], "crane": [1]}}), "in encoding raw the id 1"),
        (changed(encodings={"train_ids": {"lane": [1]}}), "encodings: 'train_ids' is reserved"),
        (changed(encodings={"a@b": {"lane": [1]}}), "encodings: 'a@b' is reserved"),
        (changed(encodings={"raw": {"boat": [1]}}), "encodings.raw: unknown class 'boat'; known: lane, crane, sky"),
        (changed(map={"kitti": {}}), "map: unknown taxonomy 'kitti'; known: cityscapes19, camvid11"),
        (changed(map={"cityscapes19": {"boat": "lane"}}), "map.cityscapes19: unknown class 'boat'"),
        (changed(map={"cityscapes19": {"road": "boat"}}), "map.cityscapes19: unknown class 'boat'"),
        (changed(name="camvid11"), "the name of the built-in taxonomy camvid11"),
        (changed(classs=1), "unknown key 'classs'"),
    ],
)
def test_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        find_taxonomy(values)
    assert caught.value.hint and "\n" not in str(caught.value) + caught.value.hint


def test_unknown_names_and_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown taxonomy 'camvid12'; known: cityscapes19, camvid11, and YAML files"):
        find_taxonomy("camvid12")
    for odd in ("~nobody/x.yaml", "a\0.yaml", str(tmp_path)):
        with pytest.raises(DgkitError):
            find_taxonomy(odd)
    with pytest.raises(InputError, match=r"cannot read the recipe .*none\.yaml"):
        find_taxonomy(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- road\n", encoding="utf-8")
    with pytest.raises(DgkitError, match="expected a mapping"):
        find_taxonomy(tmp_path / "list.yaml")
