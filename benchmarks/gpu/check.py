"""What a machine with a CUDA device tells about dgkit, in less than ten minutes and without a network.

    make gpu-check                                          on that machine
    python benchmarks/gpu/check.py --out DIR --wheels DIR   packages it lacks come from wheels, for this check alone
    python benchmarks/gpu/check.py --out DIR --dry-run      the same steps on a CPU, as small as they get

Each step is a process of its own with a limit of its own, the most valuable first, so that nothing stops the rest. In
``--out``: ``steps.csv`` and ``bench.csv``, written after each step, ``environment.json``, and what the steps printed in
``log.txt``. A step that fails, or finds no time left, is a row too, and the exit code is then 1. See docs/gpu.md.

Only Python's own library is imported here: dgkit may not even start on the machine, and that is a result.
"""

import argparse
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processes import end, interrupt, kill_all, signal_all
from steps import DGKIT, DRY, FULL, LIMIT, Machine, Plan, Step

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("step", "state", "seconds", "limit", "beside", "detail", "command")
MARK = "DGKIT_GPU_CHECK"  # variable by which the processes of a step are known, whatever session they are in
LEAST = 5.0  # seconds without which no step is started
LAST_WORDS = 0.5  # seconds that the processes of a step get to say where they are
# Imported by every Python that starts with its folder in PYTHONPATH: a step that takes too long tells where it hangs.
HOOK = "import faulthandler, os, signal\nfaulthandler.register(signal.SIGUSR1, os.dup(2))\n"  # pytest takes 2 away
DUMP = re.compile("^(Current thread|Thread) 0x", re.MULTILINE)
PATIENCE = 2  # times what it is expected to need, after which a step in the background is given up
NAMES = [step.name for step in Plan(FULL, Machine(True, True, True, ""), Path()).steps()]
SHOWN = ("step", "network", "engine", "dtype", "batch", "ms_median", "images_per_hour", "x_official", "tflops", "share",
         "gbytes", "parity", "psnr", "error")  # fmt: skip


@dataclass
class Running:
    """A step that was started; ``beside`` collects the steps that ran at the same time."""

    step: Step
    process: subprocess.Popen[bytes]
    log: Path
    started: float
    limit: float
    beside: set[str] = field(default_factory=set)


class Check:
    """Runs steps and writes what became of them."""

    def __init__(self, out: Path, work: Path, seconds: float, environment: dict[str, str]) -> None:
        self.out, self.work, self.environment = out, work, environment
        self.deadline = time.monotonic() + seconds
        self.states: dict[str, str] = {}
        self.running: list[Running] = []
        for name in ("steps.csv", "bench.csv", "log.txt"):
            (out / name).unlink(missing_ok=True)

    def run(self, steps: Sequence[Step]) -> None:
        """All steps. One may use the time that those before it left, but not what those after it are expected to need.

        Steps in the background that none of the others waited for are waited for at the end.
        """
        for index, step in enumerate(steps):
            for name in step.after:
                self._wait_for(name)
            later = sum(other.seconds for other in steps[index + 1 :] if not other.background and not other.lacks)
            left = self.deadline - time.monotonic()
            limit = min(left, PATIENCE * step.seconds if step.background else max(step.seconds, left - later))
            broken = [name for name in step.after if self.states.get(name, "ok") != "ok"]
            reason = step.lacks or (f"needs {', '.join(broken)}" if broken else "")
            if reason or limit < LEAST:
                self._write(step, "skipped" if reason else "no time", 0.0, limit, set(), reason)
                continue
            running = self._start(step, limit)
            if not step.background:
                self._finish(running)
        for running in list(self.running):
            self._finish(running)

    def stop(self) -> None:
        """End every process that is still running."""
        for running in self.running:
            interrupt(running.process)  # all at once, so that they clean up at the same time
        for running in self.running:
            end(running.process, mark(running.step))
        kill_all(mark())  # a step that was being started is in no list yet

    def _start(self, step: Step, limit: float) -> Running:
        command = [str(word) for word in step.command]
        variables = {**self.environment, MARK: mark(step).partition("=")[2], LIMIT: f"{limit:.1f}"}
        if step.background:  # half of the cores, and yielding to what runs beside it
            few = str(max(1, (os.cpu_count() or 2) // 2))
            variables |= {"OMP_NUM_THREADS": few, "TORCHINDUCTOR_COMPILE_THREADS": few}
            command = ["nice", "-n", "10", *command]
        print(f"{step.name} ...", flush=True)
        log = self.work / f"{step.name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        running = Running(step, process, log, time.monotonic(), limit)
        for other in self.running:
            running.beside.add(other.step.name)
            other.beside.add(step.name)
        self.running.append(running)
        return running

    def _wait_for(self, name: str) -> None:
        for running in [item for item in self.running if item.step.name == name]:
            self._finish(running)

    def _finish(self, running: Running) -> None:
        step, state = running.step, "timeout"
        code = 0
        try:
            code = running.process.wait(timeout=max(0.0, running.started + running.limit - time.monotonic()))
            state = "ok" if code == 0 else "failed"
        except subprocess.TimeoutExpired:
            signal_all(mark(step), signal.SIGUSR1)
            time.sleep(LAST_WORDS)
        seconds = time.monotonic() - running.started
        end(running.process, mark(step))  # also what a step that is over has left behind
        self.running.remove(running)
        text = running.log.read_text(encoding="utf-8", errors="replace")
        with (self.out / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"===== {step.name}: {' '.join(map(str, step.command))}\n{text.rstrip()}\n")
        detail, errors = summary(text, state, code), self._take_rows(step, running.beside)
        if errors and state == "ok":
            state, detail = "partly", f"{len(errors)} rows with an error, the first: {errors[0]}"
        self._write(step, state, seconds, running.limit, running.beside, detail)

    def _take_rows(self, step: Step, beside: set[str]) -> list[str]:
        """Keep what the step measured, with its name and what ran beside it; the errors among it."""
        if step.rows is None or not step.rows.is_file():
            return []
        with step.rows.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        for row in rows:
            append(self.out / "bench.csv", {"step": step.name, "beside": " ".join(sorted(beside)), **row})
        return [row["error"] for row in rows if row.get("error")]

    def _write(self, step: Step, state: str, seconds: float, limit: float, beside: set[str], detail: str) -> None:
        self.states[step.name] = state
        words = (str(word) for word in step.command)
        command = " ".join(words).replace(sys.executable, "python").replace(f"{ROOT}{os.sep}", "")
        values = (step.name, state, f"{seconds:.1f}", f"{limit:.0f}", " ".join(sorted(beside)), detail, command)
        append(self.out / "steps.csv", dict(zip(COLUMNS, values, strict=True)))
        print(f"{step.name:<17} {state:<8} {seconds:6.1f} s  {detail}", flush=True)


def append(path: Path, row: dict[str, str]) -> None:
    """Add a row, which has the columns of those that are there, and bring it to the disk."""
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(row), lineterminator="\n")
        if stream.tell() == 0:
            writer.writeheader()
        writer.writerow(row)
        stream.flush()
        os.fsync(stream.fileno())


def mark(step: Step | None = None) -> str:
    """How a variable begins that only the processes of this step, or of all, have, if this process started them."""
    return f"{MARK}={os.getpid()}-" + (f"{step.name};" if step else "")


def summary(text: str, state: str, code: int) -> str:
    """One line for the table: of a failure the one that names the error, else the last one that is not a frame.

    Of a step that took too long also where it was, and of one that a signal ended, which a shell or ``nice`` adds to
    128, its exit code.
    """
    said, place = text, ""
    if state == "timeout" and (dump := DUMP.search(text)):
        said, place = text[: dump.start()], text.rpartition("Current thread")[2]
    lines = [line.strip() for line in said.splitlines() if line.strip()[:1].isalnum()]
    if state != "ok":
        lines = [line for line in lines if line.startswith("error:") or "Error" in line.split(":")[0]][-1:] or lines
    words = lines[-1][:160] if lines else ""
    if place:
        return f"{words}; at {place.splitlines()[1].strip()}".removeprefix("; ")
    return f"exit code {code}: {words}" if code < 0 or code > 128 else words


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results, made where it is missing")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install for this check alone")
    parser.add_argument("--minutes", type=float, default=9.5, help="bound on everything (default: 9.5)")
    parser.add_argument("--steps", help=f"only these, the others counting as done: {','.join(NAMES)}")
    parser.add_argument("--parts", help="of the step measure only these parts, see measure.py")
    parser.add_argument("--work", type=Path, help="folder for engines and logs, which is then kept")
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, as small as the steps get")
    given = parser.parse_args()
    unknown = set(given.steps.split(",") if given.steps else ()) - set(NAMES)
    if unknown:
        parser.error(f"unknown step {min(unknown)!r}; known: {', '.join(NAMES)}")
    if given.wheels and not list(given.wheels.glob("*.whl")):
        parser.error(f"{given.wheels} holds no wheel")
    return given


def main() -> int:
    """Exit code 0, or 1 where a step failed or ran out of time, or where there is no CUDA device to check."""
    given = read_arguments()
    chosen = given.steps.split(",") if given.steps else NAMES
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    given.out.mkdir(parents=True, exist_ok=True)
    work = (given.work or Path(tempfile.mkdtemp(prefix="dgkit-gpu-"))).resolve()
    (work / "site").mkdir(parents=True, exist_ok=True)
    (work / "site" / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
    check = Check(given.out.resolve(), work, 60 * given.minutes, variables(work, ROOT))
    try:
        if given.wheels:
            install = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--upgrade", "--target"]
            check.run([Step("wheels", [*install, work / "site", *sorted(given.wheels.resolve().glob("*.whl"))], 60)])
        check.run([Step("environment", [*DGKIT, "doctor", "--json"], 60)])
        machine = Machine.read(environment(work / "environment.log", check.out / "environment.json"))
        steps = Plan(DRY if given.dry_run else FULL, machine, work, given.parts).steps()
        check.run([step for step in steps if step.name in chosen])
    finally:
        check.stop()
        print_rows(check.out / "bench.csv")
        if given.work is None:
            shutil.rmtree(work, ignore_errors=True)
    if not machine.cuda and not given.dry_run:
        print("nothing was measured: this machine has no CUDA device; --dry-run runs the steps on a CPU")
        return 1
    return int(any(state not in ("ok", "skipped") for state in check.states.values()))


def variables(work: Path, root: Path) -> dict[str, str]:
    """The environment of all steps: packages of the wheels first, caches in ``work``, no network."""
    paths = [str(work / "site"), str(root), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "DGKIT_CACHE": str(work / "cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
        "HF_HUB_OFFLINE": "1",
    }


def environment(log: Path, out: Path) -> dict[str, Any]:
    """What doctor found, also in ``out``; empty where it failed."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
        found: dict[str, Any] = json.loads(text[text.index("{\n") : text.rindex("}") + 1])  # libraries warn around it
    except (OSError, ValueError):
        return {}
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def print_rows(path: Path) -> None:
    """The figures, one line each."""
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                print("  ".join(f"{name} {row[name]}" for name in SHOWN if row.get(name)))


if __name__ == "__main__":
    sys.exit(main())
