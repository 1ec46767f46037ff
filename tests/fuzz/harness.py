"""Runs inputs in forked processes that may not crash, hang or use much memory, and counts what came of them.

``python -m tests.fuzz.harness --inputs 20000 --csv benchmarks/results/fuzz.csv`` runs all kinds. An input is a function
of its kind, its number and the seed; ``--kind K --only N`` runs one again and prints its traceback.
"""

from __future__ import annotations

import argparse
import csv
import faulthandler
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from select import select
from typing import Any

SECONDS = 5.0  # of processor time
WAITING = 15.0  # seconds without any; a machine under load gives little, but some
LONGEST = 300.0  # seconds in all, also if some processor time is used now and then
MEMORY = 1 << 30  # bytes on top of what the process held before
MESSAGE = 4000  # characters
_SPACE = 6 << 30  # address space on top of what the process held before; allocations beyond it fail
_OWN_FRAME = re.compile(r'File "[^"]*/(dgkit/[^"]+)", line (\d+) in (\w+)')


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    ``prepare(folder)`` is called once and writes right files. ``damage(rng, folder)`` changes a copy of them, and
    ``read(rng, folder)`` passes them to readers; it may raise DgkitError only. ``weight``: share of the inputs.
    """

    name: str
    prepare: Callable[[Path], None]
    damage: Callable[[random.Random, Path], None]
    read: Callable[[random.Random, Path], None]
    weight: int = 1
    right: bool = True
    """Whether ``read`` accepts the files of ``prepare``; input number -1 of each kind checks that."""


@dataclass
class Result:
    """What came of the inputs of a kind."""

    refused: int = 0
    accepted: int = 0
    seconds: float = 0.0
    memory: int = 0
    failures: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    @property
    def failed(self) -> int:
        return sum(map(len, self.failures.values()))


def run(
    kinds: Sequence[Kind], inputs: int, seed: int = 0, workers: int = 2, seconds: float | None = None
) -> dict[str, Result]:
    """Run about ``inputs`` inputs, in proportion to the weights; stop early after ``seconds``."""
    total = sum(kind.weight for kind in kinds)
    work = [
        (number, kind)
        for kind in range(len(kinds))
        for number in range(-int(kinds[kind].right), max(1, round(inputs * kinds[kind].weight / total)))
    ]
    work.sort()  # all kinds in turn
    results = {kind.name: Result() for kind in kinds}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        root = Path(folder)
        for kind in kinds:
            (root / "bases" / kind.name).mkdir(parents=True)
            kind.prepare(root / "bases" / kind.name)
        pool = [_Worker(kinds, work[first::workers], root, first, seed) for first in range(workers)]
        end = None if seconds is None else time.monotonic() + seconds
        while running := [worker for worker in pool if worker.process]:
            ready, _, _ = select([worker.pipe for worker in running], [], [], 0.2)
            for worker in running:
                for name, number, outcome, took, memory in worker.receive(worker.pipe in ready):
                    _count(results[name], number, outcome, took, memory)
            if end is not None and time.monotonic() > end:
                for worker in running:
                    worker.stop()
    return results


def _count(result: Result, number: int, outcome: str, took: float, memory: int) -> None:
    result.seconds += took
    result.memory = max(result.memory, memory)
    if outcome in ("accepted", "refused"):
        setattr(result, outcome, getattr(result, outcome) + 1)
    else:
        result.failures[outcome].append(number)


class _Worker:
    """A forked process that works through a list; the next one takes over where it crashes or is killed."""

    def __init__(
        self, kinds: Sequence[Kind], work: Sequence[tuple[int, int]], root: Path, number: int, seed: int
    ) -> None:
        self.kinds, self.work, self.root, self.number, self.seed = kinds, work, root, number, seed
        self.next = 0
        self.trace = root / f"trace{number}"
        self._fork()

    def _fork(self) -> None:
        self.process, self.pipe, self.text = 0, -1, b""
        if self.next >= len(self.work):
            return
        self.pipe, write = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            try:
                os.close(self.pipe)
                _work(self, write)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        os.close(write)
        self._restart_clocks()

    def _restart_clocks(self) -> None:
        self.started = self.moved = time.monotonic()
        self.cpu_at_start = self.last_cpu = _processor_seconds(self.process)

    def _hangs(self) -> bool:
        cpu, now = _processor_seconds(self.process), time.monotonic()
        if cpu > self.last_cpu:
            self.last_cpu, self.moved = cpu, now
        return cpu - self.cpu_at_start > SECONDS + 1 or now - self.moved > WAITING or now - self.started > LONGEST

    def receive(self, ready: bool) -> Iterator[tuple[str, int, str, float, int]]:
        """Yield (kind, number, outcome, seconds, memory) of each input that ended."""
        if ready:
            data = os.read(self.pipe, 1 << 16)
            *lines, self.text = (self.text + data).split(b"\n")
            for line in lines:
                outcome, took, memory = json.loads(line)
                yield self._end(outcome, took, memory)
            if not data:  # it has ended: all done, or a crash
                _, status = os.waitpid(self.process, 0)
                os.close(self.pipe)
                if self.next < len(self.work):
                    yield self._end(f"crash: signal {os.WTERMSIG(status)}: {self._place()}", 0.0, 0)
                self._fork()
        elif self.process and self._hangs():
            os.kill(self.process, signal.SIGUSR1)
            time.sleep(0.3)
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
            os.close(self.pipe)
            yield self._end(f"hang: {self._place()}", time.monotonic() - self.started, 0)
            self._fork()

    def _end(self, outcome: str, took: float, memory: int) -> tuple[str, int, str, float, int]:
        number, kind = self.work[self.next]
        self.next += 1
        self._restart_clocks()
        return self.kinds[kind].name, number, outcome, took, memory

    def stop(self) -> None:
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self.pipe)
        self.process = 0

    def _place(self) -> str:
        frames = _OWN_FRAME.findall(self.trace.read_text(errors="replace"))
        return " ".join(frames[0]) if frames else "no frame of dgkit"


def _work(worker: _Worker, write: int) -> None:
    trace = worker.trace.open("w")
    faulthandler.enable(trace)
    faulthandler.register(signal.SIGUSR1, trace)
    limit = _status("VmSize") + _SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    folder = worker.root / f"work{worker.number}"
    for number, kind in worker.work[worker.next :]:
        outcome = run_one(worker.kinds[kind], worker.root / "bases", folder, number, worker.seed)
        os.write(write, json.dumps(outcome).encode() + b"\n")


def run_one(
    kind: Kind, bases: Path, folder: Path, number: int, seed: int, show: bool = False
) -> tuple[str, float, int]:
    """Return (outcome, seconds, bytes) of one input."""
    from dgkit.errors import DgkitError

    rng = random.Random(f"{seed} {kind.name} {number}")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(bases / kind.name, folder, symlinks=True)
    if number >= 0:
        kind.damage(rng, folder)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, cpu = _status("VmRSS"), time.process_time()
    outcome = "accepted"
    try:
        kind.read(rng, folder)
    except DgkitError as error:
        outcome = _refusal(error)
        if show:
            traceback.print_exc()
    except BaseException as error:
        outcome = f"{type(error).__name__}: {_frame(error)}"
        if show:
            traceback.print_exc()
    if number < 0 and outcome == "refused":
        outcome = "right files are refused"
    took, memory = time.process_time() - cpu, _status("VmHWM") - before
    if memory > MEMORY and outcome in ("accepted", "refused"):
        outcome = "memory"
    if took > SECONDS and outcome in ("accepted", "refused"):
        outcome = "slow"
    return outcome, took, memory


def _refusal(error: Any) -> str:
    """Whether an error is one that a person can read."""
    if not error.message.strip():
        return f"empty message: {_frame(error)}"
    return f"long message: {_frame(error)}" if len(error.message) + len(error.hint) > MESSAGE else "refused"


def _frame(error: BaseException) -> str:
    """The innermost place in dgkit that an error passed."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/dgkit/" in f.filename]
    if not frames:
        return f"no frame of dgkit, {str(error)[:80]}"
    return f"dgkit/{frames[-1].filename.rpartition('/dgkit/')[2]} {frames[-1].lineno} {frames[-1].name}"


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


def _processor_seconds(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def write_csv(path: Path, results: dict[str, Result]) -> None:
    """Write one row for each kind and one for all."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["kind", "inputs", "refused", "accepted", "failures", "seconds", "peak_mib"])
        rows = [
            (name, r.refused + r.accepted + r.failed, r.refused, r.accepted, r.failed, r.seconds, r.memory)
            for name, r in results.items()
        ]
        columns = list(zip(*rows, strict=True))
        rows.append(("all", *(sum(column) for column in columns[1:6]), max(columns[6])))
        writer.writerows([*row[:5], f"{row[5]:.1f}", row[6] >> 20] for row in rows)


def describe(results: dict[str, Result]) -> str:
    """One line for each distinct failure: its kind, what happened, how often and the numbers of the first inputs."""
    return "\n".join(
        f"{name}: {what} ({len(numbers)} times, first: {numbers[:3]})"
        for name, result in results.items()
        for what, numbers in sorted(result.failures.items(), key=lambda item: -len(item[1]))
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite from a command line; 1 if an input failed."""
    parser = argparse.ArgumentParser(description="Pass damaged and hostile files to every reader of dgkit")
    parser.add_argument("--inputs", type=int, default=400, help="number of inputs")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other inputs")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--seconds", type=float, help="stop early after this time")
    parser.add_argument("--kind", action="append", help="kinds to run; default: all")
    parser.add_argument("--only", type=int, help="run this input of the kind alone and print its traceback")
    parser.add_argument("--csv", type=Path, help="file for the table of results")
    options = parser.parse_args(arguments)
    from tests.fuzz.kinds import KINDS

    kinds = [kind for kind in KINDS if not options.kind or kind.name in options.kind]
    if options.only is not None:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            (Path(folder) / "bases" / kinds[0].name).mkdir(parents=True)
            kinds[0].prepare(Path(folder) / "bases" / kinds[0].name)
            work = Path(folder) / "work"
            print(run_one(kinds[0], Path(folder) / "bases", work, options.only, options.seed, show=True))
        return 0
    results = run(kinds, options.inputs, options.seed, options.workers, options.seconds)
    for name, r in results.items():
        counts = f"{r.refused} refused, {r.accepted} accepted, {r.failed} failed"
        print(f"{name}: {counts}, {r.seconds:.1f} s, peak {r.memory >> 20} MiB")
    print(describe(results))
    if options.csv:
        write_csv(options.csv, results)
    return int(any(result.failed for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
