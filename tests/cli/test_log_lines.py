"""Progress as lines of a log, by a clock that the test sets."""

import pytest

from dgkit.cli.log_lines import LogLines, log_interval, rate_text
from dgkit.errors import UsageError


@pytest.mark.parametrize(
    ("done", "left", "seconds", "text"),
    [
        (0, 10, 5, ""),
        (2, 10, 0, ""),
        (10, 90, 60, ", 600 images/hour, 0:09:00 left"),
        (0.5, 16.5, 109, ", 17 images/hour, 0:59:57 left"),
        (1, 7300, 1, ", 3,600 images/hour, 2:01:40 left"),
        (3, 0, 9, ", 1,200 images/hour"),
        (64, 0, 0.99, ""),
    ],
)
def test_rate_and_time_left(done: float, left: float, seconds: float, text: str) -> None:
    assert rate_text(done, left, seconds, "images") == text


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_line_at_once_after_10_s_then_every_30_s_and_at_the_end(clock: Clock) -> None:
    found: list[tuple[float, str]] = []
    lines = LogLines({"generate": ("Generating", "images")}, lambda line: found.append((clock.now, line)), clock=clock)
    for second in range(101):
        clock.now = float(second)
        lines.report("generate", second, 100)
    assert found == [
        (0, "Generating 0/100 images"),
        (10, "Generating 10/100 images, 3,600 images/hour, 0:01:30 left"),
        (40, "Generating 40/100 images, 3,600 images/hour, 0:01:00 left"),
        (70, "Generating 70/100 images, 3,600 images/hour, 0:00:30 left"),
        (100, "Generating 100/100 images, 3,600 images/hour"),
    ]


def test_what_was_there_before_does_not_count_for_the_rate(clock: Clock) -> None:
    found: list[str] = []
    lines = LogLines({"generate": ("Generating", "images")}, found.append, interval=5, clock=clock)
    lines.report("generate", 50, 100)
    clock.now = 5.0
    lines.report("generate", 51, 100)
    assert found[-1] == "Generating 51/100 images"
    clock.now = 10.0
    lines.report("generate", 52, 100)
    assert found[-1] == "Generating 52/100 images, 720 images/hour, 0:04:00 left"


def test_waiting_before_the_first_unit_does_not_count_for_the_rate(clock: Clock) -> None:
    found: list[str] = []
    lines = LogLines({"city": ("Drawing label maps", "maps")}, found.append, interval=1, clock=clock)
    for clock.now, done in ((0.0, 0), (60.0, 1), (60.0, 40), (62.0, 41)):
        lines.report("city", done, 61)
    assert found[1:] == [
        "Drawing label maps 1/61 maps",
        "Drawing label maps 41/61 maps, 72,000 maps/hour, 0:00:01 left",
    ]


def test_stages_have_lines_of_their_own_and_may_begin_again(clock: Clock) -> None:
    found: list[str] = []
    lines = LogLines({"engines": ("Building engines", None)}, found.append, clock=clock)
    lines.report("engines", 0, 2, "about 40 s left")
    lines.report("verify", 3, 3)
    lines.report("verify", 3, 3)
    lines.report("verify", 1, 3)
    clock.now = 20.0
    lines.report("engines", 1, 2, "about 20 s left")
    assert found == [
        "Building engines 0/2, about 40 s left", "verify 3/3", "verify 1/3", "Building engines 1/2, about 20 s left",
    ]  # fmt: skip


def test_the_interval_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert log_interval() == 30
    monkeypatch.setenv("DGKIT_LOG_INTERVAL", "2.5")
    assert log_interval() == 2.5
    for wrong in ("0", "-1", "often", "nan", "inf"):
        monkeypatch.setenv("DGKIT_LOG_INTERVAL", wrong)
        with pytest.raises(UsageError, match="expected seconds"):
            log_interval()
