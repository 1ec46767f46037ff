"""``dgkit report`` through the real command line."""

import json
from pathlib import Path

import pytest

from dgkit.cli.app import main
from dgkit.labels import CLASSES
from tests.generated import make_generated


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return make_generated(tmp_path / "out", 3)


def test_an_unfinished_run_is_called_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = make_generated(tmp_path / "out", 5, 3)
    assert main(["report", str(out)]) == 0
    assert "3 of 3 finished scenes (5 requested): " in capsys.readouterr().err
    with (out / "config.yaml").open("a") as file:
        file.write("shard: [1, 2]\n")
    assert main(["report", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["requested"] is None


def test_report_prints_the_path_of_the_page(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(out)]) == 0
    assert f"3 of 3 scenes: {out / 'report.html'}" in capsys.readouterr().err
    assert all(name in (out / "report.html").read_text() for name in CLASSES)
    assert main(["report", str(out), "--embed", "2", "--to", str(tmp_path / "page.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shown"] == 2
    assert main(["report", str(out), "--to", str(tmp_path / "other.html")]) == 2
    assert "--embed" in capsys.readouterr().err
