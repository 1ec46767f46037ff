"""Options built from a config class: names, types, defaults, order and panels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import BeforeValidator, Field
from typer.testing import CliRunner

from dgkit.cli.app import app, main
from dgkit.cli.options import COMPLETIONS, ConfigCommand, Json, options_of
from dgkit.config import Config, Metavar
from dgkit.diffusion.presets import PRESETS
from dgkit.engines.runner import RUNNERS


class PaintConfig(Config):
    """Fields of every type that an option can have."""

    colours: Annotated[tuple[str, ...], Metavar("NAME")] = Field(min_length=1, description="Colours; repeatable")
    width: Annotated[float, Metavar("PX")] = Field(1.5, description="Width of the brush")
    glossy: bool = Field(False, description="Add varnish")
    outline: bool = Field(True, description="Draw outlines")
    brush: Literal["round", "flat"] = Field("round", description="Shape of the brush")
    coats: Annotated[tuple[int, ...], BeforeValidator(lambda value: value)] = Field((1, 2), description="Coats")
    frame: Path | dict[str, Any] | None = Field(None, description="Frame")
    note: str = Field("", description="Remark")


seen: list[dict[str, Any]] = []


@options_of(f"{__name__}:PaintConfig", {"Paint": "width colours glossy", "": "outline brush coats frame note as_json"})
def paint(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Picture")], flags: dict[str, Any], as_json: Json = False
) -> None:
    """Paint a picture."""
    seen.append({"out": out, "as_json": as_json, **flags})


@pytest.fixture
def painter() -> typer.Typer:
    seen.clear()
    painter = typer.Typer()
    painter.command(cls=ConfigCommand)(paint)
    return painter


def test_only_what_was_given_is_passed_on(painter: typer.Typer) -> None:
    given = ["o.png", "--colours", "red", "--colours", "blue", "--width", "1.5", "--glossy", "--no-outline"]
    result = CliRunner().invoke(painter, [*given, "--frame", "oak.yaml", "--coats", "3"])
    assert result.exit_code == 0, result.output
    assert seen == [
        {"out": Path("o.png"), "as_json": False, "colours": ["red", "blue"], "width": 1.5, "glossy": True,
         "outline": False, "frame": Path("oak.yaml"), "coats": "3"}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("option", "incomplete", "expected"),
    [
        ("preset", "", list(PRESETS)),
        ("style_mix", "s", ["sunny", "snowy"]),
        ("dataset", "c", ["cityscapes=", "camvid="]),
        ("dtype", "f", ["fp32", "fp16", "fp8"]),
        ("engine", "", ["torch", "compile", "ort", "openvino", "trt"]),
        ("model", "", []),
    ],
)
def test_shells_complete_values(option: str, incomplete: str, expected: list[str]) -> None:
    command = typer.main.get_command(app).commands["generate"]
    (parameter,) = (one for one in command.get_params(typer.Context(command)) if one.name == option)
    found = parameter.shell_complete(typer.Context(command), incomplete)
    assert [item.value for item in found] == expected


def test_completed_engines_are_all_engines() -> None:
    assert set(COMPLETIONS["engine"][0]) == set(RUNNERS)


def test_help_shows_order_panels_and_defaults(painter: typer.Typer) -> None:
    text = CliRunner(env={"COLUMNS": "120"}).invoke(painter, ["--help"]).output
    places = [text.index(f"--{name} ") for name in ("outline", "brush", "coats", "frame", "note", "json")]
    assert places == sorted(places) and text.index("--width") < text.index("--colours") < text.index("--glossy")
    assert "Paint a picture." in text and "\u2500 Paint \u2500" in text and "--no-outline" in text
    assert "--no-glossy" not in text
    for default in ("[default: 1.5]", "[default: round]", "[default: 1,2]", "[required]"):
        assert default in text


def test_a_required_option_is_required(painter: typer.Typer) -> None:
    result = CliRunner().invoke(painter, ["o.png"])
    assert result.exit_code == 2 and "--colours" in result.output and not seen


@pytest.mark.parametrize("name", [info.name for info in app.registered_commands])
def test_every_help_text_is_a_phrase(name: str) -> None:
    """No full stop, no bracket that rich would take for markup, at most fifteen words."""
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    for param in command.get_params(typer.Context(command)):
        text = param.help
        assert text and (param.name == "help" or not text.endswith(".")), param.name
        assert "[" not in text and len(text.split()) <= 15, text


def test_a_list_is_separated_by_commas(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--engines", "torch,steam", "--batches", "1"]) == 2
    assert "steam" in capsys.readouterr().err
