"""Scenes of the page, and the command lines that repeat them."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dgkit.app.markup import scene_cards
from dgkit.app.repeat import BULK, command_line, source_command
from dgkit.app.studio import Choice, Stopped, Studio, choices
from dgkit.cli.app import main
from dgkit.cli.web_page import GENERATE_FLAGS
from dgkit.config import load_config
from dgkit.data.labelmap import colorize
from dgkit.diffusion.loading import load_pipeline
from dgkit.errors import LabelError, UsageError
from dgkit.generation.generate_config import GenerateConfig
from tests.scenes import make_label

PRESET = "one-pass:steps=1"


@pytest.fixture(scope="module")
def studio(micro: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    config = GenerateConfig(model=str(micro), device="cpu", engine="torch", dtype="fp32")
    with load_pipeline(str(micro)) as pipeline:
        yield Studio(config, pipeline, tmp_path_factory.mktemp("label maps"))


@pytest.fixture(scope="module")
def label() -> np.ndarray:
    return make_label(4)[:64, :64]


def run(line: str, out: Path, count: int) -> list[np.ndarray]:
    """Run a command line of the page for fewer images."""
    words = shlex.split(line)
    assert words[:2] == ["dgkit", "generate"] and words[words.index("--count") + 1] == str(BULK)
    words[2], words[words.index("--count") + 1] = str(out), str(count)
    assert main(words[1:]) == 0
    return [np.asarray(Image.open(path)) for path in sorted((out / "images").iterdir())]


def test_the_command_line_repeats_the_scene(studio: Studio, label: np.ndarray, tmp_path: Path) -> None:
    """Bit for bit as the only image of a run; next to others only rounding differs."""
    scene = studio.make(label, Choice("night", PRESET, 3.5, 7))
    line = command_line(scene.choice.name, scene.config, GENERATE_FLAGS)
    assert "--set guidance_scale=3.5" in line and "'" in line  # the folder's name has a blank
    (alone,) = run(line, tmp_path / "one", 1)
    assert np.array_equal(alone, scene.image)
    many = run(line, tmp_path / "two", 2)
    assert np.abs(many[0].astype(int) - scene.image).max() <= 1
    assert not np.array_equal(many[1], scene.image)  # other noise
    written = np.asarray(Image.open(next((tmp_path / "one" / "labels").iterdir())))
    assert np.array_equal(written, label)


def test_the_command_line_of_the_source_draws_from_all_its_maps(
    studio: Studio, label: np.ndarray, labels: Path, tmp_path: Path
) -> None:
    base = studio.base.model_copy(update={"labels": labels})
    shown = [studio.config(label, Choice(style, PRESET, None, 3)) for style in ("snowy", "night", "snowy")]
    line = source_command(base, shown, GENERATE_FLAGS)
    assert len(run(line, tmp_path / "all", 2)) == 2
    styles = {path.name: path.read_text() for path in (tmp_path / "all").glob("manifest.jsonl")}["manifest.jsonl"]
    assert '"style": "snowy"' in styles and '"style": "night"' in styles
    assert shlex.split(source_command(base, shown[:1], GENERATE_FLAGS))[-2:] == ["--seed", "3"]


def test_every_setting_is_repeated(tmp_path: Path) -> None:
    """What the command line parses again is the configuration that it was made of."""
    judge = tmp_path / "a judge.onnx"
    given = load_config(
        GenerateConfig, dataset="gta=/data/it's here", split="all", model="a b", engine="ort", dtype="bf16",
        rare=False, cuda_graph=False, min_share=0.2, size="32x64", guidance_scale=2, steps=3, label_scale=0.5,
        judge=judge, min_agreement=0.25, seed=5, style_mix={"snowy": 1, "night": 2}, preset="exact:steps=4", count=100,
    )  # fmt: skip
    assert parsed(command_line("out", given, GENERATE_FLAGS)) == given
    recipe = given.model_copy(update={"engine_recipe": tmp_path / "r.yaml"})
    assert "--engine-recipe" in (line := command_line("out", recipe, GENERATE_FLAGS))
    assert "--engine " not in line and "--dtype" not in line


def parsed(line: str) -> GenerateConfig:
    """Return what ``dgkit generate`` makes of a command line."""
    from typer.main import get_command

    from dgkit.cli.app import app

    root = get_command(app)
    command = root.get_command(root.make_context("dgkit", ["generate", "x"], resilient_parsing=True), "generate")  # type: ignore[attr-defined]
    context = command.make_context("generate", shlex.split(line)[2:])
    typed = {
        name: value for name, value in context.params.items()
        if name in GenerateConfig.model_fields and context.get_parameter_source(name).name == "COMMANDLINE"
    }  # fmt: skip
    return load_config(GenerateConfig, None, context.params["sets"] or (), **typed)


def test_stop_ends_a_series(studio: Studio, label: np.ndarray) -> None:
    studio.stop()
    with pytest.raises(Stopped):
        studio.make(label, Choice("none", PRESET, None, 0))
    studio.start()
    assert studio.make(label, Choice("none", PRESET, None, 0)).agreement is None


def test_a_judge_gives_agreement(studio: Studio, label: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studio, "_judge", SimpleNamespace(agreement=lambda image, label: 0.625))
    scene = studio.make(label, Choice("none", PRESET, None, 0))
    cards = scene_cards([scene.choice, Choice("<i>", PRESET, 2.5, 1)], [scene], colorize(label))
    assert "62.5% of the pixels agree with their labels" in cards
    assert cards.count("dg-wait") == 1 and "<b>&lt;i&gt;</b> one-pass:steps=1, guidance 2.5, seed 1" in cards


def test_styles_of_your_own(studio: Studio, label: np.ndarray, labels: Path, tmp_path: Path) -> None:
    own = choices(["night", "tunnel"], "dusk=at dusk, it's late\n\n fog \n", [PRESET], "", "")
    assert [(choice.style, choice.clause) for choice in own] == [
        ("night", None), ("tunnel", None), ("dusk", "at dusk, it's late"), ("fog", None)
    ]  # fmt: skip
    scene = studio.make(label, own[2])
    assert scene.prompt.endswith(", at dusk, it's late.")
    assert "does not know these words: dusk (at, dusk, it, late)" in scene.notes[0]
    assert scene.notes[0] in scene_cards([own[2]], [scene], colorize(label))
    line = command_line("dusk", scene.config, GENERATE_FLAGS)
    assert parsed(line) == scene.config
    assert np.array_equal(run(line, tmp_path / "one", 1)[0], scene.image)
    known = studio.make(label, own[0])
    assert known.notes == ()
    whole = source_command(
        studio.base.model_copy(update={"labels": labels}), [known.config, scene.config], GENERATE_FLAGS
    )
    assert len(run(whole, tmp_path / "all", 2)) == 2
    assert '"style": "dusk"' in (tmp_path / "all" / "manifest.jsonl").read_text()


def test_a_map_without_classes_is_refused(studio: Studio) -> None:
    with pytest.raises(LabelError, match="ignored"):
        studio.make(np.full((64, 64), 255, np.uint8), Choice("none", PRESET, None, 0))


def test_choices_are_all_combinations() -> None:
    found = choices(["snowy", "night"], "", ["fast", "turbo"], " 3, 7.5", "1")
    assert len(found) == len({choice.name for choice in found}) == 8
    assert found[0] == Choice("snowy", "fast", 3.0, 1) and found[0].name == "snowy-fast-guidance3-seed1"
    assert choices(["none"], "", ["exact:steps=2"], "", "")[0].name == "none-exact-steps-2-seed0"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (([], "", ["fast"], "", "0"), "no style"),
        ((["night"], "", ["fast"], "", "1,2,3,4,5,6,7,8,9,10,11,12,13"), "13 scenes were requested; at most 12"),
        ((["night"], "", ["fast"], "high", "0"), "guidance_scale='high'"),
        ((["night"], "", ["fast"], "101", "0"), "guidance_scale='101'"),
        ((["night"], "", ["fast"], "", "-1"), "seed='-1'"),
        ((["night"], "", ["quick"], "", "0"), "unknown preset 'quick'"),
        (([], "dusk=", ["fast"], "", "0"), "style 'dusk': the clause is empty"),
        (([], "sunset", ["fast"], "", "0"), "style 'sunset' has no clause"),
        ((["night"], "night=on a dark night", ["fast"], "", "0"), "style 'night' is defined twice"),
        ((["night"], "dusk=" + 20000 * "x", ["fast"], "", "0"), "own styles is too long"),
        ((["windy"], "", ["fast"], "", "0"), "windy"),
        ((["night"], "", ["fast"], "", "1," * 600), "too long"),
    ],
)
def test_wrong_choices_are_refused(arguments: tuple[list[str], str, list[str], str, str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        choices(*arguments)
