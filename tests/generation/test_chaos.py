"""After kills, full and read-only disks and concurrent runs, the folder is that of an undisturbed run."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dgkit.cli.app import main
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.verification import verify
from dgkit.generation.worker import WorkerSetup
from dgkit.generation.workers import start
from dgkit.locks import has_writer
from tests import crash
from tests.scenes import snapshot
from tests.watching import alive, children, wait_for

if not sys.platform.startswith("linux"):
    pytest.skip("needs SIGKILL, /proc and tmpfs", allow_module_level=True)

COUNT = 12
KILLS = 30
TIMEOUT = 300
PATIENCE = 30  # seconds for orphaned workers to exit


@pytest.fixture(scope="module")
def whole(whole_run: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in whole_run.items() if name != "config.yaml"}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A separate file system: ``disk(options)`` mounts it, or remounts it with other options."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = False

    def mount(options: str) -> Path:
        nonlocal mounted
        given = f"remount,{options}" if mounted else options
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", given, "tmpfs", str(place)], capture_output=True, text=True
        )
        if done.returncode != 0:
            pytest.skip(f"this user may not mount a tmpfs: {done.stderr.strip()}")
        mounted = True
        return place

    yield mount
    if mounted:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_reported_and_the_run_resumes_once_there_is_space(
    command: list[str], whole: dict[str, bytes], disk: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pages = sum(-(-len(data) // 4096) for name, data in whole.items() if name.startswith(("images", "labels", "vis")))
    out = disk(f"nr_blocks={pages // 2}") / "out"
    assert main(["generate", str(out), *command]) == 1
    error = capsys.readouterr().err
    assert "the disk is full" in error and "run the same command again" in error
    found = verify(out)
    assert 0 < found.images < COUNT
    assert set(found.counts) == {"job"}  # existing images are intact
    disk("size=64m")
    assert main(["generate", str(out), *command]) == 0
    assert snapshot(out, skip="config.yaml") == whole


def test_a_disk_that_became_read_only_is_reported(
    command: list[str], whole: dict[str, bytes], disk: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = disk("size=64m") / "out"
    assert main(["generate", str(out), *command]) == 0
    next((out / "images").iterdir()).unlink()
    disk("ro")
    capsys.readouterr()
    assert main(["generate", str(out), *command]) == 1
    assert "permission denied" in capsys.readouterr().err
    assert main(["verify", str(out)]) == 1  # a check needs no write permission
    disk("rw")
    assert main(["verify", str(out), "--repair"]) == 0
    assert snapshot(out, skip="config.yaml") == whole


def test_workers_exit_when_their_parent_is_gone() -> None:
    connection, process = start(WorkerSetup(GenerateConfig(model="nowhere"), 1, ()))
    connection.close()
    assert process.wait(PATIENCE) == 0


@pytest.fixture(scope="module")
def server() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["diffusers.models.unets.unet_2d_condition", "dgkit.generation.run"])
    return context


def begin(server: multiprocessing.context.ForkServerContext, out: Path, command: list[str], *flags: str):
    process = server.Process(target=crash.run_slowly, args=(["generate", str(out), *command, *flags], 30))
    process.start()
    return process


@pytest.mark.slow
def test_thirty_kills_at_random_moments(
    server, command: list[str], whole: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kill the run, or a worker, which the run survives; a second run is refused in the meantime."""
    out = tmp_path / "out"
    rng = random.Random(6)
    killed = {"run": 0, "worker": 0}
    refused = 0
    while sum(killed.values()) < KILLS:
        flags = ("--workers", "2") if rng.random() < 0.6 else ()
        before = len(images(out))
        process = begin(server, out, command, *flags)
        wait_for(lambda p=process: has_writer(out) or p.exitcode is not None, TIMEOUT)
        refused += is_refused(out, command, capsys) if rng.random() < 0.2 else 0
        if flags and rng.random() < 0.7:
            wait_for(lambda p=process: bool(children(p.pid)) or p.exitcode is not None, TIMEOUT)
            time.sleep(rng.uniform(0, 3))
            for worker in children(process.pid)[:1]:
                os.kill(worker, signal.SIGKILL)
                killed["worker"] += 1
        if rng.random() < 0.7:  # while it writes
            wait_for(lambda p=process, n=before: len(images(out)) > n or p.exitcode is not None, TIMEOUT)
        time.sleep(rng.uniform(0, 0.3))
        workers = children(process.pid)
        process.kill()
        process.join(TIMEOUT)
        killed["run"] += process.exitcode == -signal.SIGKILL
        assert wait_for(lambda left=workers: not any(map(alive, left)), PATIENCE), "workers outlive their run"
        for picture in rng.sample(images(out), max(0, len(images(out)) - COUNT // 2)):
            picture.unlink()  # so that images are always missing
    print(f"{killed}, a second run refused {refused} times")
    assert min(killed.values()) >= 5 and refused >= 1
    assert main(["generate", str(out), *command]) == 0
    assert snapshot(out, skip="config.yaml") == whole
    assert verify(out).problems == ()


def images(out: Path) -> list[Path]:
    return sorted((out / "images").glob("0*.png"))


def is_refused(out: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> bool:
    """Start a second run in the folder; if the first has just ended or not yet begun, it does the work instead."""
    capsys.readouterr()
    code = main(["generate", str(out), *command])
    error = capsys.readouterr().err
    assert code == 0 or "another run is writing" in error
    return code != 0
