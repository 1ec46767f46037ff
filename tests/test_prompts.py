"""Captions and prompts: the published wording."""

import numpy as np
import pytest

from dgkit.errors import UsageError
from dgkit.prompts import Prompt, Wording, caption, compose
from dgkit.styles import Style
from dgkit.wording import TEMPLATE

DUSK = Style("dusk", "at dusk")


def test_caption_lists_classes_in_the_order_of_train_ids() -> None:
    assert caption(np.array([[255, 13, 6], [2, 0, 0]], np.uint8)) == "road building traffic light car"


def test_caption_without_labelled_pixels_is_empty() -> None:
    assert caption(np.full((2, 2), 255, np.uint8)) == ""
    assert caption(np.full((2, 2), 19, np.uint8)) == ""


def test_prompts_are_worded_as_published() -> None:
    assert compose("road car", "snowy") == "A city street scene with road car, in snowy weather."
    assert compose("road car", "none") == "road car"
    assert compose("", "night") == "A city street scene, in night weather."
    with pytest.raises(UsageError, match="unknown style 'windy'; known styles: sunny, snowy") as error:
        compose("road", "windy")
    assert error.value.hint == "define it: --style windy='in strong wind'"


@pytest.mark.parametrize(
    ("template", "caption", "style", "prompt"),
    [
        ("A photo of {classes}, {style}", "road car", DUSK, "A photo of road car, at dusk"),
        ("A photo of {classes}, {style}", "road car", "none", "A photo of road car"),
        ("A street with {classes}, {style}.", "", DUSK, "A street, at dusk."),
        ("A street with {classes}; {style}.", "", "none", "A street."),
        ("{style}: {classes}", "road car", "none", "road car"),
        ("A road {style}", "road car", "snowy", "A road in snowy weather"),
        (
            TEMPLATE,
            "road",
            Style("odd", "with {classes} and {x}"),
            "A city street scene with road, with {classes} and {x}.",
        ),
    ],
)
def test_own_templates(template: str, caption: str, style: str | Style, prompt: str) -> None:
    assert compose(caption, style, template) == prompt


def test_classes_are_renamed_dropped_and_limited() -> None:
    label = np.array([[0, 0, 0, 2, 13, 13, 5]], np.uint8)
    wording = Wording(words={"car": "cars and vans", "pole": ""})
    assert wording.prompt(label, DUSK) == Prompt(
        "A city street scene with road building cars and vans, at dusk.", ("road", "building", "cars and vans")
    )
    assert Wording(limit=2).names(label) == ("road", "car")  # the largest, in ascending train id
    assert Wording(limit=0).prompt(label, DUSK).text == "A city street scene, at dusk."
    assert Wording("Wet street, {style}").prompt(label, DUSK) == Prompt("Wet street, at dusk")
    with pytest.raises(UsageError, match="class word for 'cars': no such class; known: road") as error:
        Wording(words={"cars": "vans"})
    assert error.value.hint == "did you mean car?"
