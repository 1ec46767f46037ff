"""Jumps of the system clock: no byte of a run depends on it, and no duration is measured with it."""

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dgkit.cli.app import main
from dgkit.generation.verification import verify
from dgkit.locks import LOCK, sole_writer
from tests.scenes import snapshot

COUNT = 6
HOUR = 3600.0
JUMPS = (5, -31, 0.5, 8760, -100_000)  # hours, one after each image, in a cycle


class Clock:
    """Replaces the system clock of this process; it jumps after each image, and files get its time.

    ``readers`` are the modules that read the time, ``stamps`` the times of the images.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.offset = time.time() - time.monotonic()
        self.jumps = itertools.cycle(JUMPS)
        self.readers: set[str] = set()
        self.stamps: list[float] = []
        self._replace = os.replace
        monkeypatch.setattr(time, "time", self.time)
        monkeypatch.setattr(time, "time_ns", lambda: round(1e9 * self.time()))
        monkeypatch.setattr(os, "replace", self.replace)

    @property
    def now(self) -> float:
        return time.monotonic() + self.offset

    def time(self) -> float:
        self.readers.add(sys._getframe(1).f_globals.get("__name__", ""))
        return self.now

    def replace(self, source: Any, target: Any, **options: Any) -> None:
        self._replace(source, target, **options)
        os.utime(target, (self.now, self.now))
        if Path(target).parent.name == "images":
            self.stamps.append(self.now)
            self.offset += HOUR * next(self.jumps)


def test_jumps_between_images_change_nothing(
    command: list[str],
    whole_run: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    clock = Clock(monkeypatch)
    started = time.monotonic()
    for count, made in ((4, 4), (COUNT, 2)):  # whole blocks, then more after further jumps
        capsys.readouterr()
        assert main(["generate", str(out), *command, "--count", str(count), "--json"]) == 0
        summary = json.loads(capsys.readouterr().out)
        assert summary["written"] == made
        assert 0 < summary["seconds"] <= time.monotonic() - started
        assert summary["images_per_hour"] >= 3600 * summary["written"] / (time.monotonic() - started)
    assert len(clock.stamps) == COUNT and clock.stamps != sorted(clock.stamps)
    assert snapshot(out) == whole_run
    assert verify(out).problems == ()
    assert [name for name in clock.readers if name.split(".")[0] == "dgkit"] == []
    assert main(["report", str(out)]) == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    data, _ = json.JSONDecoder().raw_decode(page[page.index('{"title"') :])
    assert data["throughput"]["seconds"] > 0 and min(data["throughput"]["rates"]) >= 0


@pytest.mark.slow
def test_jumps_do_not_disturb_workers(
    command: list[str], whole_run: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)
    out = tmp_path / "out"
    assert main(["generate", str(out), *command, "--workers", "2"]) == 0
    unlike = {"config.yaml": b""}  # it says how many workers there were
    assert {**snapshot(out), **unlike} == {**whole_run, **unlike}


def test_leftovers_of_a_dead_run_are_taken_over_whatever_their_time(
    command: list[str], whole_run: dict[str, bytes], tmp_path: Path
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    out = tmp_path / "out"
    left = {name: data for name, data in whole_run.items() if not name.startswith(("images/000004", "labels/000005"))}
    half = (LOCK, f".config.yaml.{gone.pid}.tmp", f"images/.000004_a.png.{gone.pid}.tmp")
    for number, (name, data) in enumerate([*left.items(), *((name, b"half") for name in half)]):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
        stamp = (0.0, 4e9)[number % 2]  # in 1970 and in 2096
        os.utime(out / name, (stamp, stamp))
    assert main(["generate", str(out), *command]) == 0
    assert snapshot(out) == whole_run


@pytest.mark.parametrize("stamp", [0.0, 4e9])
def test_the_lock_of_a_live_run_holds_whatever_its_time(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], stamp: float
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with sole_writer(out):
        os.utime(out / LOCK, (stamp, stamp))
        assert main(["generate", str(out), *command]) == 1
    assert "another run is writing" in capsys.readouterr().err
