"""What commands share."""

import json
import re

import pytest
import typer

from dgkit.cli import log_lines
from dgkit.cli.common import inform, interruptible, print_json, progress_bars, say
from dgkit.cli.verbosity import NORMAL, QUIET, begin_command, set_verbosity
from dgkit.processes import Terminated


def test_json_is_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"images": 3, "name": "straße"})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"images": 3, "name": "straße"}
    assert captured.err == ""


def test_lines_of_a_log_without_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_lines, "MEASURED_SECONDS", 1e-9)
    with progress_bars({"a": ("Doing", "things")}) as report:
        for done in (0, 1, 2, 3):
            report("a", done, 3, f"loss 0.{done}")
    captured = capsys.readouterr()
    first, last = captured.err.splitlines()
    assert captured.out == ""
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d Doing 0/3 things, loss 0.0", first)
    assert re.search(r"Doing 3/3 things, [\d,]+ things/hour, loss 0.3$", last)


def test_quiet_shows_no_progress_but_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    set_verbosity(QUIET)
    try:
        with progress_bars() as report:
            report("a", 0, 3)
            inform("a detail")
            say("the result")
    finally:
        set_verbosity(NORMAL)
    assert capsys.readouterr().err == "the result\n"


def test_a_stop_says_what_was_dropped_and_names_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    begin_command(["generate", "my out", "--count", "4"])
    error = Terminated()
    error.add_note("8 unfinished images were dropped")
    with pytest.raises(typer.Exit) as found, interruptible():
        raise error
    assert found.value.exit_code == 143
    line = "stopped; 8 unfinished images were dropped; run the same command again to resume"
    assert capsys.readouterr().err == f"{line}: dgkit generate 'my out' --count 4\n"


def test_bars_show_count_and_rate_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(log_lines, "MEASURED_SECONDS", 1e-9)
    with progress_bars({"a": ("Doing", "things"), "b": ("More", "bits")}) as report:
        for done in (2, 3, 4):
            report("a", done, 4)
        report("b", 0, 1)
        report("unnamed", 1, 2, "loss 0.5")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "4/4 things" in captured.err and "things/hour" in captured.err and "0/1 bits" in captured.err
    assert "1/2, loss 0.5" in captured.err
