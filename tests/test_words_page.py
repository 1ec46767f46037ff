"""The commands and the Python block of the page on own words run in the order given, on a tiny model."""

import itertools
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from dgkit.cli.app import main
from dgkit.config import load_config
from dgkit.data.style_mixes import load_style_mix
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.settings import chosen_style_mix
from dgkit.styles import Style
from tests.pages import blocks, guide, lines, section
from tests.scenes import FAST_FLAGS

PAGE = guide("words")
QUICK = [*FAST_FLAGS, "--preset", "one-pass", "--count", "5"]
ALWAYS, SLOW = ("hail", "cars", "winter.yaml"), pytest.mark.slow
EMBEDDED = "What the embedded model knows"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of styles that the page shows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DGKIT_CACHE", str(tmp_path / "cache"))
    (text,) = blocks(PAGE, "yaml")
    Path(text.splitlines()[0].removeprefix("# ")).write_text(text, encoding="utf-8")
    return tmp_path


def typed(words: list[str], flag: str) -> list[str]:
    return [value for name, value in itertools.pairwise(words) if name == f"--{flag}"]


def test_the_page_has_commands() -> None:
    # The tests below pass if the blocks are no longer found.
    assert len(lines(PAGE)) == 10 and len(blocks(PAGE, "python")) == len(blocks(PAGE, "text")) == 1


@pytest.mark.parametrize(
    "line", [line if any(word in line for word in ALWAYS) else pytest.param(line, marks=SLOW) for line in lines(PAGE)]
)
def test_a_command_of_the_page(line: str, folder: Path, micro: Path, labels: Path) -> None:
    words = shlex.split(line)[1:]
    assert main([*words, "--model", str(micro), "--labels", str(labels), *QUICK]) == 0
    if "--preview" in words:
        assert [path.name for path in Path("OUT").iterdir()] == ["preview.png"]
        return
    records = [json.loads(text) for text in Path("OUT", "manifest.jsonl").read_text().splitlines()]
    mix = chosen_style_mix(load_config(GenerateConfig, Path("OUT", "config.yaml")))
    assert {record["style"] for record in records} <= {*mix.used}
    styles = {style.partition("=")[0] for style in typed(words, "style")}
    assert styles <= {record["style"] for record in records}
    for record in records:
        check_words(words, mix.style(record["style"]), record)


def check_words(words: list[str], style: Style, record: dict[str, Any]) -> None:
    """Check the prompts of an image against the words of its command."""
    assert style.clause in record["prompt"]
    for change in typed(words, "class-word"):
        assert change.partition("=")[0] not in record["prompt"].split()
    if typed(words, "prompt-template") and record["style"] != "none":
        assert record["prompt"].startswith("A photo of a street with ")
    if limit := typed(words, "class-limit"):
        named = record["prompt"].split(",")[0].removeprefix("A city street scene with ")
        assert 0 < len(named.split()) <= 2 * int(limit[0])
    assert record.get("negative_prompt", "") == (style.negative_prompt or "".join(typed(words, "negative-prompt")))


def test_the_file_of_the_page_is_a_mix(folder: Path) -> None:
    mix = load_style_mix("winter.yaml")
    assert mix.used == ("snowy", "none", "dusk", "night-rain", "snow-fog")
    rain = mix.style("night-rain")
    assert (rain.weight, rain.negative_prompt, rain.guidance_scale) == (0.5, "daylight", 5)


def test_the_warning_of_the_page(folder: Path, labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The embedded model prints the line that the page shows."""
    flags = ["--style", "dusk=at dusk, long shadows", "--labels", str(labels), "--count", "1", "--preview"]
    assert main(["generate", "OUT", *flags, "--preset", "one-pass:steps=1", "--engine", "torch"]) == 0
    (warning,) = blocks(section(PAGE, EMBEDDED), "text")
    assert warning.strip() in " ".join(capsys.readouterr().err.split())


def test_the_python_of_the_page(folder: Path, micro: Path, labels: Path) -> None:
    (block,) = blocks(PAGE, "python")
    quick = f'count=2, labels={str(labels)!r}, model={str(micro)!r}, preset="one-pass:steps=1", engine="torch"'
    block = block.replace("count=2", quick).replace('"fast"', '"one-pass:steps=1"')
    names: dict[str, Any] = {}
    exec(block.replace("load_pipeline()", f"load_pipeline({str(micro)!r})"), names)
    assert Path("evening", "preview.png").is_file() and len(names["result"].records) == 2
    assert {record.style for record in names["result"].records} == {"dusk", "night"}
    assert names["scene"].image.shape == (64, 64, 3) and "at dusk" in names["scene"].prompt
