"""``dgkit list``: names as a table and as JSON."""

import json

import pytest

from dgkit.cli.app import main
from dgkit.cli.catalogue import KINDS
from dgkit.data.layouts import LAYOUTS
from dgkit.diffusion.presets import PRESETS
from dgkit.diffusion.random_model import MODELS
from dgkit.engines.runner import RUNNERS
from dgkit.labels import ENCODINGS


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_tables(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert main(["list", kind, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)[kind]
    for row in rows:
        assert row.keys() == rows[0].keys()
        assert any(row["name"] in line for line in lines)


def test_lists_are_complete(capsys: pytest.CaptureFixture[str]) -> None:
    def names(kind: str) -> list[str]:
        assert main(["list", kind, "--json"]) == 0
        return [row["name"] for row in json.loads(capsys.readouterr().out)[kind]]

    assert (names("presets"), names("datasets")) == (list(PRESETS), list(LAYOUTS))
    assert names("encodings") == [*ENCODINGS, "cityscapes_colours", "colours@FILE"]
    assert main(["list", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["lists"]] == list(KINDS)
    assert names("engines") == list(RUNNERS)
    assert {f"random:{name}" for name in MODELS} < set(names("models"))


def test_an_unknown_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "colours"]) == 2
    assert "unknown list 'colours'; known: presets, styles" in capsys.readouterr().err
    assert main(["list", "presest"]) == 2
    assert "did you mean presets?" in capsys.readouterr().err
