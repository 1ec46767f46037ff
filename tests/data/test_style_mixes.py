"""Style mixes: the published shares, and files of weights."""

import pickle
from pathlib import Path

import pytest

from dgkit.data.style_mixes import STYLE_MIXES, StyleMix, load_style_mix, make_mix
from dgkit.errors import InputError, UsageError
from dgkit.prompts import STYLE_NAMES, STYLES
from dgkit.styles import Style


def test_shares_of_the_named_mixes() -> None:
    assert STYLE_MIXES["official"].probabilities.tolist() == pytest.approx([0.1] * 5 + [0.5])
    released = dict(zip((*STYLES, "none"), STYLE_MIXES["published"].probabilities, strict=True))
    assert released["snowy"] + released["rainy"] + released["foggy"] == pytest.approx(3 / 7)
    assert released["night"] == pytest.approx(1 / 7) and released["none"] == pytest.approx(3 / 7)
    assert released["sunny"] == 0
    assert STYLE_MIXES["uniform"].probabilities.tolist() == pytest.approx([0.2] * 5 + [0])
    assert STYLE_MIXES["driving"].probabilities.tolist() == pytest.approx([0] * 6 + [0.05] * 20)
    assert set(STYLE_MIXES) == {"official", "published", "uniform", "driving", *STYLES, "none"}


def test_mixes_from_files(tmp_path: Path) -> None:
    path = tmp_path / "winter.yaml"
    path.write_text("snowy: 3\nnone: 1\n")
    mix = load_style_mix(path)
    assert mix.name == "winter" and dict(mix.weights) == {"snowy": 3.0, "none": 1.0}
    assert load_style_mix("published") is load_style_mix("released") is STYLE_MIXES["published"]
    assert load_style_mix("code") is STYLE_MIXES["official"]


def test_a_file_may_define_styles_and_weigh_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "evening.yaml"
    path.write_text(
        "night: 2\nhail: in a hailstorm\ndusk: {clause: 'at dusk', weight: 3, guidance_scale: 2}\nsnowy: {weight: 4}\n"
        "fog: in thin fog\n"
    )
    mix = load_style_mix(path)
    assert mix.used == ("snowy", "night", "dusk", "fog", "hail") and mix.weights["snowy"] == 4
    assert mix.style("fog") == Style("fog", "in thin fog")
    assert mix.style("dusk") == Style("dusk", "at dusk", 3, guidance_scale=2)
    assert mix.style("hail").clause == "in a hailstorm" and mix.style("snowy").clause == "in snowy weather"


def test_own_styles_join_a_mix() -> None:
    dusk = {"dusk": Style("dusk", "at dusk", 2)}
    assert load_style_mix("uniform", dusk).probabilities.tolist() == pytest.approx([1 / 7] * 5 + [0, 2 / 7])
    assert load_style_mix("dusk", dusk).used == ("dusk",)
    assert load_style_mix("dawn").style("dawn").clause.startswith("at dawn")
    assert dict(make_mix("custom", {"dusk": 5, "none": 1}, dusk).weights) == {"dusk": 5, "none": 1}
    with pytest.raises(UsageError, match="style 'dusk' is defined twice"):
        make_mix("custom", {"dusk": {"clause": "at dusk"}}, dusk)


def test_the_order_of_styles_does_not_depend_on_how_a_mix_is_written() -> None:
    own = {name: Style(name, f"in {name}") for name in ("b", "a")}
    one = StyleMix("m", {"b": 1, "night": 2, "a": 3}, own)
    other = StyleMix("m", {"a": 3, "b": 1, "night": 2}, own)
    assert one.names == other.names == (*STYLE_NAMES, "a", "b")
    assert one.probabilities.tolist() == other.probabilities.tolist()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("windy: 1", "unknown style 'windy'"),
        ("windy: {weight: 1}", "style 'windy' has no clause"),
        ("windy: {clauses: in wind}", "style 'windy': unknown key 'clauses'; allowed: clause, weight"),
        ("windy: {clause: in wind, weight: .nan}", "style 'windy': weight nan"),
        ("windy: {clause: in wind, weight: -2}", "style 'windy': weight -2"),
        ("windy: {clause: in wind, weight: 0}", "sum to 0"),
        ("windy: {clause: in wind, guidance_scale: .nan}", "style 'windy': guidance scale nan; allowed: 0 to 100"),
        ("windy: {clause: in wind, negative_prompt: [a]}", "the negative prompt is .* not a text"),
        ('windy: "in\\twind"', "holds the unprintable character"),
        ("a/b: in wind", "style name 'a/b'; allowed: 1 to 40 letters"),
        ("snowy: -1", "weight of snowy is -1"),
        ("snowy: .nan", "weight of snowy is nan"),
        ("snowy: much", "weight of snowy is 'much'"),
        ("dusk: '0,5'", "weight of dusk is '0,5'"),
        ("snowy: true", "weight of snowy is True"),
        ("snowy: 0", "sum to 0"),
    ],
)
def test_mixes_with_invalid_weights(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "mix.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=words):
        load_style_mix(path)


def test_mixes_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown style mix 'winter'; known mixes: official, published, uniform"):
        load_style_mix("winter")
    with pytest.raises(InputError, match="No such file"):
        load_style_mix(tmp_path / "absent.yaml")
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(InputError, match="is empty"):
        load_style_mix(tmp_path / "empty.yaml")


def test_a_mix_is_immutable_and_can_be_pickled() -> None:
    mix = STYLE_MIXES["official"]
    with pytest.raises(TypeError):
        mix.weights["snowy"] = 1.0  # type: ignore[index]
    assert pickle.loads(pickle.dumps(mix)) == mix
