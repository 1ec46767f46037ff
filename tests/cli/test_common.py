"""What commands share."""

import json

import pytest

from dgkit.cli.common import print_json, progress_bars, rate_text


@pytest.mark.parametrize(
    ("done", "left", "seconds", "text"),
    [
        (0, 10, 5, ""),
        (2, 10, 0, ""),
        (10, 90, 60, ", 600 images/hour, 0:09:00 left"),
        (0.5, 16.5, 109, ", 17 images/hour, 0:59:57 left"),
        (1, 7300, 1, ", 3,600 images/hour, 2:01:40 left"),
    ],
)
def test_rate_and_time_left(done: float, left: float, seconds: float, text: str) -> None:
    assert rate_text(done, left, seconds, "images") == text


def test_json_is_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"images": 3, "name": "straße"})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"images": 3, "name": "straße"}
    assert captured.err == ""


def test_bars_stay_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars({"a": ("Doing", "things")}) as report:
        report("a", 0, 3)
        report("a", 3, 3)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.strip() == ""


def test_lines_instead_of_bars_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars(lines=True) as report:
        for done in (0, 1, 2, 3):
            report("ldm", done, 3, f"loss 0.{done}")
    assert capsys.readouterr().err.splitlines() == ["ldm 0/3 loss 0.0", "ldm 3/3 loss 0.3"]


def test_bars_show_count_and_rate_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with progress_bars({"a": ("Doing", "things"), "b": ("More", "bits")}) as report:
        report("a", 2, 4)
        report("a", 4, 4)
        report("b", 0, 1)
        report("unnamed", 1, 2, "loss 0.5")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "4/4 things" in captured.err and "things/hour" in captured.err and "0/1 bits" in captured.err
    assert "1/2, loss 0.5" in captured.err
