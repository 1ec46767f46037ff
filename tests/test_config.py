"""Recipes, assignments and flags become one checked, frozen configuration."""

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Literal

import pytest
import yaml
from pydantic import Field, ValidationError, model_validator

import dgkit
from dgkit.config import Config, dump_config, load_config
from dgkit.errors import InputError, UsageError
from dgkit.generation.generate_config import GenerateConfig


class Noise(Config):
    scale: float = 1.0
    """Standard deviation."""
    kind: Literal["normal", "uniform"] = "normal"
    """Distribution."""


class Example(Config):
    count: int = Field(default=4, ge=1)
    """How many."""
    name: str = "a"
    """A name."""
    folder: Path | None = None
    """A folder."""
    size: tuple[int, int] = (8, 8)
    """Height and width in pixels."""
    noise: Noise = Noise()
    """The noise."""

    @model_validator(mode="after")
    def _small(self) -> "Example":
        if self.count * self.size[0] > 1000:
            raise ValueError("count times height must not exceed 1000")
        return self


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text("count: 5\nname: recipe\nnoise: {scale: 2, kind: uniform}\n")
    return path


def test_defaults_without_any_source() -> None:
    assert load_config(Example) == Example()


def test_later_sources_win(recipe: Path) -> None:
    config = load_config(Example, recipe, ["name=set", "noise.scale=3", "count=6"], count=7, folder=None)
    assert config.model_dump() == {
        "count": 7,
        "name": "set",
        "folder": None,
        "size": (8, 8),
        "noise": {"scale": 3.0, "kind": "uniform"},
    }


def test_flags_merge_into_groups(recipe: Path) -> None:
    assert load_config(Example, recipe, noise={"scale": 5}).noise == Noise(scale=5, kind="uniform")


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("size=[4, 6]", "size", (4, 6)),
        ("name=12", "name", "12"),
        ("name=a=b", "name", "a=b"),
        ("folder=x", "folder", Path("x")),
    ],
)
def test_values_of_assignments_are_yaml(text: str, field: str, value: object) -> None:
    assert getattr(load_config(Example, None, [text]), field) == value


def test_small_numbers_that_yaml_reads_as_text() -> None:
    assert load_config(Example, None, ["noise.scale=1e-5"]).noise.scale == 1e-5


def test_dump_reads_back_to_an_equal_object(tmp_path: Path) -> None:
    config = Example(count=3, folder=tmp_path / "ü", noise=Noise(scale=0.1))
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(Example, path) == config
    assert list(yaml.safe_load(dump_config(config))) == ["count", "name", "folder", "size", "noise"]


def test_frozen() -> None:
    with pytest.raises(ValidationError):
        Example().count = 5  # type: ignore[misc]


MISTAKES = {
    "cuont=1": ("unknown key 'cuont', allowed: count, folder, name, noise, size", "did you mean count?"),
    "noise.scael=1": ("unknown key 'noise.scael', allowed: kind, scale", "did you mean scale?"),
    "count=0": ("count=0 is not allowed: input should be greater than or equal to 1", "use a value of at least 1"),
    "count=many": ("count='many' is not allowed", "count"), "count=500": ("times height must not exceed 1000", ""),
    "noise.kind=pink": ("noise.kind='pink' is not allowed: input should be", "use 'normal' or 'uniform'"),
    **{text: (f"--set '{text}' is not an assignment", "--set key=value") for text in ("count", "=3")},
    "size=[1": ("the value is not valid YAML", "quote it"),
}  # fmt: skip


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_name_the_key_and_what_is_allowed(text: str) -> None:
    words, hint = MISTAKES[text]
    with pytest.raises(UsageError) as caught:
        load_config(Example, None, [text])
    assert words in caught.value.message and hint in caught.value.hint
    assert "\n" not in caught.value.message and caught.value.exit_code == 2


def test_several_mistakes_are_counted() -> None:
    with pytest.raises(UsageError, match=r"count=0 .* \(and 1 more\)"):
        load_config(Example, count=0, size=(1, 2, 3))


class Needs(Config):
    out: Path
    """Where to."""


def test_a_required_value() -> None:
    with pytest.raises(UsageError, match="out is required"):
        load_config(Needs)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"- 1\n", "contains a list"),
        (b"a: [", "not valid YAML"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (None, "No such file"),
    ],
)
def test_recipes_that_cannot_be_read(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "r.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        load_config(Example, path)
    assert str(path) in caught.value.message and "\n" not in caught.value.message


def test_an_empty_recipe_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("# nothing\n")
    assert load_config(Example, tmp_path / "r.yaml") == Example()


def config_classes() -> Iterator[type[Config]]:
    """All subclasses of Config in dgkit, found in the sources so that nothing else is imported."""
    root = Path(dgkit.__file__).parent
    bases = {
        node.name: (path, {base.id for base in node.bases if isinstance(base, ast.Name)})
        for path in root.rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    }
    known, count = {"Config"}, 0
    while count < len(known):
        count = len(known)
        known |= {name for name, (_, parents) in bases.items() if parents & known}
    for name in sorted(known - {"Config"}):
        module = ".".join(bases[name][0].relative_to(root.parent).with_suffix("").parts)
        yield getattr(import_module(module), name)


def limits(cls: type[Config], field: str) -> set[str]:
    """Kinds of limits of a field: a stage may move a limit, but not drop it."""
    sides = {"Ge": "lower", "Gt": "lower", "Le": "upper", "Lt": "upper"}
    return {sides.get(type(item).__name__, type(item).__name__) for item in cls.model_fields[field].metadata}


def test_fields_that_a_subclass_overrides_keep_their_limits_and_descriptions() -> None:
    classes = list(config_classes())
    assert len(classes) > 40
    for cls in classes:
        for base in cls.__mro__[1:]:
            for field in getattr(base, "model_fields", {}):
                assert limits(cls, field) >= limits(base, field), f"{cls.__name__}.{field} drops limits"
                described = cls.model_fields[field].description or not base.model_fields[field].description
                assert described, f"{cls.__name__}.{field} drops its description"


@pytest.mark.parametrize("text", ["vae.batch=0", "unet.steps=-1", "finetune.lr=-1", "decoder.ema=1", "vae.steps=0"])
def test_limits_hold_in_stages_with_their_own_defaults(text: str) -> None:
    from dgkit.training.city.city_recipe import CityRecipe

    with pytest.raises(UsageError, match="is not allowed: input should be"):
        load_config(CityRecipe, None, [text])


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({"dtype": "fp4"}, "use 'auto', 'fp32', 'bf16', 'fp16', 'int8' or 'fp8'"),
        ({"count": 0}, "use a value of at least 1"),
        ({"min_share": 1.0}, "use a value below 1.0"),
        ({"count": "many"}, "count: Total number of images in OUT"),
        ({"rare": "maybe"}, "rare: Rare class sampling of crops; off: uniform"),
    ],
)
def test_the_hint_names_what_is_allowed(values: dict[str, object], hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(GenerateConfig, **values)
    assert caught.value.hint == hint
