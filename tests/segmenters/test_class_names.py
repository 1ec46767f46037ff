"""Class names are matched whatever their case and separators; names that are not used are reported."""

from pathlib import Path

import pytest

from dgkit.errors import InputError
from dgkit.labels import CLASSES
from dgkit.segmenters.class_names import match_classes

PATH = Path("config.json")


@pytest.mark.parametrize(
    "spell",
    [
        lambda name: name.replace(" ", "_"),
        lambda name: name.replace(" ", "-"),
        lambda name: name.replace(" ", ""),
        lambda name: name.replace(" ", "  "),
        lambda name: f" {name} ",
        str.upper,
        str.title,
        lambda name: name.title().replace(" ", ""),
    ],
)
def test_spellings_of_the_usual_names(spell) -> None:
    names = [spell(name) for name in CLASSES]
    match = match_classes(names, PATH)
    assert match.train_ids.tolist() == match.channels == list(range(len(CLASSES)))
    assert match.notes() == ()
    assert match.facts() == {"class_names": {n: c for n, c in zip(names, CLASSES, strict=True) if n != c}}
    assert match_classes(CLASSES, PATH).facts() == {}


def test_names_that_are_not_used_are_reported() -> None:
    match = match_classes(["void", *CLASSES[::-1][:-1], "sofa"], PATH)
    assert match.channels == list(range(1, 19)) and match.train_ids.tolist() == list(range(18, 0, -1))
    assert match.notes() == (
        "ignored classes, which are none of the 19: void, sofa",
        "no channel is named road; these classes are never predicted",
    )
    many = match_classes([*CLASSES, *(f"thing {n}" for n in range(131))], PATH)
    assert "thing 7 and 123 more" in many.notes()[0]


def test_refused_names() -> None:
    with pytest.raises(InputError, match=r"config\.json names none of the 19 classes: sofa, chair"):
        match_classes(["sofa", "chair"], PATH)
    with pytest.raises(InputError, match=r"names the class 'traffic light' for the channels 0 .*, 2 "):
        match_classes(["traffic light", "road", "Traffic_Light"], PATH)
