"""Style mixes: the published shares, and files of weights."""

import pickle
from pathlib import Path

import pytest

from dgkit.data.style_mixes import STYLE_MIXES, load_style_mix
from dgkit.errors import InputError, UsageError
from dgkit.prompts import STYLES


def test_shares_of_the_named_mixes() -> None:
    assert STYLE_MIXES["official"].probabilities.tolist() == pytest.approx([0.1] * 5 + [0.5])
    released = dict(zip((*STYLES, "none"), STYLE_MIXES["published"].probabilities, strict=True))
    assert released["snowy"] + released["rainy"] + released["foggy"] == pytest.approx(3 / 7)
    assert released["night"] == pytest.approx(1 / 7) and released["none"] == pytest.approx(3 / 7)
    assert released["sunny"] == 0
    assert STYLE_MIXES["uniform"].probabilities.tolist() == pytest.approx([0.2] * 5 + [0])
    assert set(STYLE_MIXES) == {"official", "published", "uniform", *STYLES, "none"}


def test_mixes_from_files(tmp_path: Path) -> None:
    path = tmp_path / "winter.yaml"
    path.write_text("snowy: 3\nnone: 1\n")
    mix = load_style_mix(path)
    assert mix.name == "winter" and dict(mix.weights) == {"snowy": 3.0, "none": 1.0}
    assert load_style_mix("published") is load_style_mix("released") is STYLE_MIXES["published"]
    assert load_style_mix("code") is STYLE_MIXES["official"]


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
