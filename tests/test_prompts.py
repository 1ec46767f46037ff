"""Captions and prompts: the published wording."""

import numpy as np
import pytest

from dgkit.errors import UsageError
from dgkit.prompts import caption, compose


def test_caption_lists_classes_in_the_order_of_train_ids() -> None:
    assert caption(np.array([[255, 13, 6], [2, 0, 0]], np.uint8)) == "road building traffic light car"


def test_caption_without_labelled_pixels_is_empty() -> None:
    assert caption(np.full((2, 2), 255, np.uint8)) == ""
    assert caption(np.full((2, 2), 19, np.uint8)) == ""


def test_prompts_are_worded_as_published() -> None:
    assert compose("road car", "snowy") == "A city street scene with road car, in snowy weather."
    assert compose("road car", "none") == "road car"
    assert compose("", "night") == "A city street scene, in night weather."
    with pytest.raises(UsageError, match="unknown style 'windy'; known styles: sunny, snowy"):
        compose("road", "windy")
