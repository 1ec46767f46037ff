"""Captions, prompts and style mixes: the published wording, and shares that hold."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from dgkit.data.prompts import STYLE_MIXES, STYLES, StyleMix, caption, compose, draw_style, load_style_mix
from dgkit.errors import InputError, UsageError


def test_caption_lists_classes_in_the_order_of_train_ids() -> None:
    assert caption(np.array([[255, 13, 6], [2, 0, 0]], np.uint8)) == "road building traffic light car"


def test_caption_without_labelled_pixels_is_empty() -> None:
    assert caption(np.full((2, 2), 255, np.uint8)) == ""
    assert caption(np.full((2, 2), 19, np.uint8)) == ""


def test_prompts_are_worded_as_published() -> None:
    assert compose("road car", "snowy") == "A city street scene with road car, in snowy weather."
    assert compose("road car", "none") == "road car"
    assert compose("", "night") == "A city street scene, in night weather."
    with pytest.raises(UsageError, match="unknown style 'windy', allowed: sunny, snowy"):
        compose("road", "windy")


def test_shares_of_the_named_mixes() -> None:
    assert STYLE_MIXES["code"].probabilities.tolist() == pytest.approx([0.1] * 5 + [0.5])
    released = dict(zip((*STYLES, "none"), STYLE_MIXES["released"].probabilities, strict=True))
    assert released["snowy"] + released["rainy"] + released["foggy"] == pytest.approx(3 / 7)
    assert released["night"] == pytest.approx(1 / 7) and released["none"] == pytest.approx(3 / 7)
    assert released["sunny"] == 0
    assert STYLE_MIXES["uniform"].probabilities.tolist() == pytest.approx([0.2] * 5 + [0])
    assert set(STYLE_MIXES) == {"code", "released", "uniform", *STYLES, "none"}


@pytest.mark.parametrize("name", STYLE_MIXES)
def test_draws_follow_the_shares(name: str) -> None:
    mix, count = STYLE_MIXES[name], 4000
    rng = np.random.default_rng(3)
    drawn = [draw_style(mix, rng) for _ in range(count)]
    for style, share in zip((*STYLES, "none"), mix.probabilities, strict=True):
        found = drawn.count(style)
        if share in (0, 1):
            assert found == share * count
        else:
            assert abs(found - share * count) < 5 * np.sqrt(count * share * (1 - share))


def test_a_draw_depends_on_the_generator_alone() -> None:
    mix = STYLE_MIXES["code"]
    one, two = np.random.default_rng(7), np.random.default_rng(7)
    assert [draw_style(mix, one) for _ in range(20)] == [draw_style(mix, two) for _ in range(20)]


class _Edge(np.random.Generator):
    """A generator whose next number is the largest below 1."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def random(self, *_: object, **__: object) -> float:  # type: ignore[override]
        return float(np.nextafter(1.0, 0.0))


def test_rounding_never_reaches_a_style_of_weight_zero() -> None:
    for mix in (*STYLE_MIXES.values(), StyleMix("thirds", {"sunny": 0.1, "snowy": 0.2, "rainy": 0.4})):
        assert mix.weights.get(draw_style(mix, _Edge()), 0) > 0


def test_mixes_from_files(tmp_path: Path) -> None:
    path = tmp_path / "winter.yaml"
    path.write_text("snowy: 3\nnone: 1\n")
    mix = load_style_mix(path)
    assert mix.name == "winter" and dict(mix.weights) == {"snowy": 3.0, "none": 1.0}
    assert load_style_mix("released") is STYLE_MIXES["released"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("windy: 1", "unknown style 'windy'"),
        ("snowy: -1", "weight of snowy is -1"),
        ("snowy: .nan", "weight of snowy is nan"),
        ("snowy: much", "weight of snowy is 'much'"),
        ("snowy: true", "weight of snowy is True"),
        ("snowy: 0", "sum to 0"),
    ],
)
def test_mixes_that_make_no_sense(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "mix.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=words):
        load_style_mix(path)


def test_mixes_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown style mix 'winter', allowed: code, released, uniform, sunny"):
        load_style_mix("winter")
    with pytest.raises(InputError, match="No such file"):
        load_style_mix(tmp_path / "absent.yaml")
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(InputError, match="is empty"):
        load_style_mix(tmp_path / "empty.yaml")


def test_a_mix_is_fixed_and_travels_between_processes() -> None:
    mix = STYLE_MIXES["code"]
    with pytest.raises(TypeError):
        mix.weights["snowy"] = 1.0  # type: ignore[index]
    assert pickle.loads(pickle.dumps(mix)) == mix
