"""A run that was killed and started again leaves exactly what an uninterrupted one does."""

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from tests import crash
from tests.fork_server import GENERATION, fork_server
from tests.scenes import snapshot

COUNT = 6
TIMEOUT = 300

if sys.platform == "win32":
    pytest.skip("needs SIGKILL and a fork server", allow_module_level=True)


@pytest.fixture(scope="module")
def server() -> multiprocessing.context.ForkServerContext:
    """Processes that start with torch imported already: a kill then costs a second, not ten."""
    return fork_server(*GENERATION)


@pytest.fixture(scope="module")
def whole(server, command: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert finish(server, out, command) == 0
    files = snapshot(out)
    assert len(files) == 3 * COUNT + 7  # manifest, settings, sheet; card, figures, metadata, mmsegmentation
    return files


def start(server, target, out: Path, command: list[str], *extra: int):
    process = server.Process(target=target, args=(["generate", str(out), *command], *extra))
    process.start()
    return process


def finish(server, out: Path, command: list[str]) -> int:
    process = start(server, crash.run, out, command)
    process.join(TIMEOUT)
    return process.exitcode


def check_pairs(out: Path) -> None:
    """No image without its label, no manifest line without its files, nothing half-written under a real name."""
    stems = {path.stem for path in (out / "images").glob("*.png") if not path.name.startswith(".")}
    for stem in stems:
        assert (out / "labels" / f"{stem}_labelTrainIds.png").is_file()
    manifest = out / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True) if manifest.exists() else []
    for line in lines:
        if line.endswith("\n"):
            record = json.loads(line)
            assert all((out / record[kind]).is_file() for kind in ("image", "label", "vis"))


def test_five_kills_at_random_moments(server, command: list[str], whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    rng = random.Random(20)
    killed = 0
    for goal in sorted(rng.sample(range(1, len(whole) - 7), 5)):
        process = start(server, crash.run, out, command)
        until = time.monotonic() + TIMEOUT
        while process.exitcode is None and time.monotonic() < until:
            if sum(1 for _ in out.rglob("*.*")) >= goal:
                time.sleep(rng.uniform(0, 0.02))
                break
            time.sleep(0.001)
        process.kill()
        process.join(TIMEOUT)
        killed += process.exitcode == -signal.SIGKILL
        check_pairs(out)
    assert killed >= 3  # a run may end before it is killed; the later runs then have nothing to do
    assert finish(server, out, command) == 0
    assert snapshot(out) == whole


def test_a_kill_inside_any_file_operation(server, command: list[str], whole: dict[str, bytes], tmp_path: Path) -> None:
    # Seven operations an image: two sides of three renames, one manifest line; the config is written first.
    out = tmp_path / "out"
    for operation in (1, 2 + 1, 2 + 2, 2 + 5, 2 + 6):
        process = start(server, crash.run_until, out, command, operation)
        process.join(TIMEOUT)
        assert process.exitcode == -signal.SIGKILL
        check_pairs(out)
    assert finish(server, out, command) == 0
    assert snapshot(out) == whole


@pytest.mark.parametrize(
    ("number", "flags"),
    [
        (signal.SIGINT, ()),
        (signal.SIGTERM, ()),
        pytest.param(signal.SIGINT, ("--workers", "2"), marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, ("--workers", "2"), marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_the_run_cleanly_and_the_same_command_continues(
    server,
    command: list[str],
    whole: dict[str, bytes],
    tmp_path: Path,
    number: signal.Signals,
    flags: tuple[str, ...],
) -> None:
    out = tmp_path / "out"
    process = start(
        server, crash.run_slowly, out, [*command, *flags], 100
    )  # else the rest is done before the signal arrives
    until = time.monotonic() + TIMEOUT
    while not (out / "manifest.jsonl").exists() and process.exitcode is None and time.monotonic() < until:
        time.sleep(0.001)
    os.kill(process.pid, number)
    process.join(TIMEOUT)
    assert process.exitcode == 128 + number
    check_pairs(out)
    names = set(snapshot(out))
    assert not [name for name in names if name.endswith(".tmp") or ".dgkit.lock" in name]
    lines = (out / "manifest.jsonl").read_text().splitlines()
    assert len(lines) == len(list((out / "images").iterdir())) == len(list((out / "labels").iterdir()))
    assert finish(server, out, command) == 0
    assert snapshot(out) == whole
