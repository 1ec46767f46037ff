"""Commands in real processes that are killed at random moments end, when repeated, in what an undisturbed run makes."""

import csv
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from dgkit.generation.verification import verify
from dgkit.provenance import cpu_name
from tests import crash
from tests.fork_server import GENERATION, fork_server
from tests.scenes import FAST_FLAGS, snapshot
from tests.watching import alive, children, wait_for

if not sys.platform.startswith("linux"):
    pytest.skip("needs SIGKILL and /proc", allow_module_level=True)

KILLS = 30  # of the slow test, a third on each command
TIMEOUT = 900
PATIENCE = 60  # seconds for the children of a killed run to exit
CSV = "DGKIT_CHAOS_CSV"  # file that the slow test appends its row to
TIMES = ("seconds", "created", "peak_gib", "checksum")  # keys of side-cars whose values differ between two builds


@dataclass(frozen=True)
class Job:
    """A command line for a folder, and what it makes there, with which two runs can be compared."""

    name: str
    arguments: Callable[[Path], list[str]]
    result: Callable[[Path], dict[str, Any]]
    workers: bool = False  # a killed child is replaced
    alone: tuple[str, ...] = ()  # further arguments with which a single process makes the same

    def start(self, folder: Path, log: Path) -> subprocess.Popen[bytes]:
        """Start the command in a process of its own, with one thread and caches in ``folder``."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DGKIT_CACHE": str(folder / "cache")}
        with log.open("ab") as stream:
            return subprocess.Popen(
                [sys.executable, "-m", "dgkit", *self.arguments(folder)],
                stdout=stream,
                stderr=stream,
                env=environment,
            )

    def finish(self, folder: Path, log: Path) -> dict[str, Any]:
        """Run the command to its end and return what it made."""
        process = self.start(folder, log)
        assert process.wait(TIMEOUT) == 0, log.read_text(errors="replace")[-3000:]
        return self.result(folder)


def generated(folder: Path) -> dict[str, Any]:
    assert verify(folder / "out").problems == ()
    return snapshot(folder / "out", skip="config.yaml")


def tensors(value: Any) -> Any:
    """Return nested values with tensors as bytes; times and paths are left out."""
    if isinstance(value, torch.Tensor):
        return value.numpy().tobytes()
    if isinstance(value, dict):
        return {str(key): tensors(item) for key, item in value.items()}
    return [tensors(item) for item in value] if isinstance(value, list | tuple) else value


def trained(folder: Path) -> dict[str, Any]:
    """Return weights, optimizer and figures of every checkpoint, the exported network and the list of files."""
    out = folder / "out"
    names = sorted(path.name for path in out.iterdir() if path.is_file() and not path.name.startswith("."))
    found: dict[str, Any] = {"files": names}
    for path in out.glob("*.pth"):
        content = torch.load(path, map_location="cpu", weights_only=False)
        found[path.name] = tensors({key: content.get(key) for key in ("state_dict", "optimizer", "figures")})
    for name in ("metrics.json", "segmenter.onnx", "segmenter.yaml"):
        found[name] = (out / name).read_bytes()
    return found


def built(folder: Path) -> dict[str, Any]:
    """Return the engines in the cache; side-cars without times and without the checksums that cover them.

    Locks, and the times of files in verified.json, are left out.
    """
    found: dict[str, Any] = {}
    for name, data in snapshot(folder / "cache").items():
        if not name.endswith(("lock", "verified.json")):
            found[name] = timeless(json.loads(data)) if name.endswith(".json") else data
    return found


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in TIMES}
    return [timeless(item) for item in value] if isinstance(value, list) else value


@pytest.fixture
def generate(micro: Path, labels: Path) -> Job:
    flags = ["--labels", str(labels), "--model", str(micro), "--style-mix", "uniform", *FAST_FLAGS]
    count = ["--count", "8", "--workers", "2"]
    alone = ("--workers", "0")
    return Job("generate", lambda folder: ["generate", str(folder / "out"), *flags, *count], generated, True, alone)


@pytest.fixture
def segmenter(request: pytest.FixtureRequest, tmp_path: Path) -> Job:
    """A training of 6 iterations, of the slow test 12, with worker processes, checkpoints and validations."""
    pytest.importorskip("mmseg")
    for number in range(3):
        label = np.zeros((80, 96), np.uint8)
        label[40 + 3 * number :] = 2
        for name, array in (("labels", label), ("images", np.stack([label * 90, 255 - label, label], axis=-1))):
            (tmp_path / "source" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(tmp_path / "source" / name / f"{number}.png")
    root = {"root": str(tmp_path / "source")}
    steps = 12 if request.node.get_closest_marker("slow") else 6
    train = {"steps": steps, "batch": 2, "warmup": 1, "checkpoint_every": 3, "validate_every": 4, "keep": 1}
    data = {"source": root, "val": root, "crop": 64, "workers": 2}
    recipe = {"head": "segformer", "backbone": "mit_b0", "channels": 16, "data": data, "train": train}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = ["train", "segmenter", str(tmp_path / "recipe.yaml"), "--out"]
    return Job("train segmenter", lambda folder: [*command, str(folder / "out")], trained)


@pytest.fixture
def engines() -> Job:
    return Job("build-engines", lambda folder: ["build-engines", "--random", "tiny", "--engine", "ort"], built)


def kill(process: subprocess.Popen[bytes]) -> bool:
    """Kill a run and wait until its children are gone; return False if it had ended."""
    left = children(process.pid)
    process.kill()
    ended = process.wait(TIMEOUT)
    assert wait_for(lambda: not any(map(alive, left)), PATIENCE), "child processes outlive their run"
    assert ended in (0, -signal.SIGKILL)
    return ended != 0


def refused(job: Job, folder: Path, log: Path, first: subprocess.Popen[bytes]) -> bool:
    """Start a second run while ``first`` runs; return whether it was refused. It may do the work if the first ended."""
    second = job.start(folder, log)
    code = second.wait(TIMEOUT)
    if code == 0:
        return False
    assert "another run is writing to" in log.read_text(errors="replace")
    return True


def disturb(job: Job, folder: Path, log: Path, seconds: float, dice: random.Random, kills: int) -> dict[str, int]:
    """Kill runs of ``job`` at random moments; folders that get finished are compared and begun again."""
    count = {"run": 0, "worker": 0, "refused": 0, "finished": 0}
    reference = job.result(folder / "whole")
    here = folder / "0"
    here.mkdir()
    while count["run"] + count["worker"] < kills:
        process = job.start(here, log)
        wait_for(lambda p=process: p.poll() is not None, dice.uniform(0.05, 1.0) * seconds)
        if job.name != "build-engines" and dice.random() < 0.15 and process.poll() is None:
            count["refused"] += refused(job, here, log, process)
        if job.workers and dice.random() < 0.4 and process.poll() is None:
            for worker in children(process.pid)[:1]:
                os.kill(worker, signal.SIGKILL)
                count["worker"] += 1
            wait_for(lambda p=process: p.poll() is not None, dice.uniform(0.05, 0.5) * seconds)
        count["run"] += kill(process)
        if process.returncode == 0:
            assert job.result(here) == reference
            count["finished"] += 1
            here = folder / str(count["finished"])
            here.mkdir()
    assert job.finish(here, log) == reference
    return count


@pytest.mark.slow
def test_thirty_kills_of_real_processes(generate: Job, segmenter: Job, engines: Job, tmp_path: Path) -> None:
    start, dice = time.monotonic(), random.Random(16)
    total = {"run": 0, "worker": 0, "refused": 0, "finished": 0}
    for job in (generate, segmenter, engines):
        folder, log = tmp_path / job.name, tmp_path / f"{job.name}.log"
        (folder / "whole").mkdir(parents=True)
        began = time.monotonic()
        job.finish(folder / "whole", log)
        found = disturb(job, folder, log, time.monotonic() - began, dice, KILLS // 3)
        print(f"{job.name}: {found}")
        total = {key: total[key] + found[key] for key in total}
    assert total["run"] + total["worker"] >= KILLS
    if path := os.environ.get(CSV):
        append_row(Path(path), total, time.monotonic() - start)


def append_row(path: Path, total: dict[str, int], seconds: float) -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    row = [now, total["run"], total["worker"], total["refused"], "yes", f"{seconds:.1f}", commit, cpu_name()]
    with path.open("a", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerow(row)


@pytest.fixture(scope="module")
def server() -> multiprocessing.context.ForkServerContext:
    """Processes that start with the packages of both commands already imported."""
    training = (
        "dgkit.training.segmenter.segmenter_training",
        "torch.utils.tensorboard",
        "matplotlib.backends.backend_agg",
    )
    return fork_server(*GENERATION, *training, "dgkit.cli.app", "onnxscript")


def seen(pattern: str, folder: Path) -> Callable[[], bool]:
    return lambda: next(folder.glob(pattern), None) is not None


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("name", "moments"),
    [("generate", ("out/images/0*.png",)), ("segmenter", ("out/iter_3.pth",))],
)
def test_a_few_kills_lose_nothing(
    server: multiprocessing.context.ForkServerContext,
    request: pytest.FixtureRequest,
    name: str,
    moments: tuple[str, ...],
    tmp_path: Path,
) -> None:
    """Each kill follows the appearance of a file; the same command then ends in what an undisturbed run makes."""
    job: Job = request.getfixturevalue(name)
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    for moment in moments:
        process = server.Process(target=crash.run, args=(job.arguments(cut),))
        process.start()
        wait_for(lambda p=process, m=moment: seen(m, cut)() or p.exitcode is not None, TIMEOUT)
        left = children(process.pid)
        process.kill()
        process.join(TIMEOUT)
        assert process.exitcode == -signal.SIGKILL
        assert wait_for(lambda pids=left: not any(map(alive, pids)), PATIENCE), "child processes outlive their run"
    for arguments in (job.arguments(cut), [*job.arguments(whole), *job.alone]):
        process = server.Process(target=crash.run, args=(arguments,))
        process.start()
        process.join(TIMEOUT)
        assert process.exitcode == 0
    assert job.result(cut) == job.result(whole)
