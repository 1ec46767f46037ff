"""Check dgkit on a machine with a CUDA device, without network access: does it work, and how fast is it?

    make gpu-check                                          does it work? three minutes
    make gpu-check SIZE=speed                               how fast is it? ten minutes
    python benchmarks/gpu/check.py --out DIR --wheels DIR   with missing packages from wheels, for this check only
    python benchmarks/gpu/check.py --out DIR --dry-run      the same steps on a CPU, in the smallest size

The short size builds each network of the embedded model with TensorRT, compares it with PyTorch, and makes ten images.
The long one measures all engines, and runs the tests that need a GPU. Each step is a process with its own time limit,
the most valuable first, so a failing step does not stop the others. In ``--out``: ``steps.csv`` and ``bench.csv``,
written after each step, ``environment.json``, the output of the steps in ``log.txt``, and ``report.json``, which has
all of it without paths and names, for a bug report. A step that fails or has no time left is a row too, and the exit
code is then 1. See docs/guides/gpu.md.

Imports only the standard library: dgkit may not even start on the machine, and that is a result.
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
from steps import DGKIT, LIMIT, SIZES, Machine, Plan, QuickPlan, Step

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("step", "state", "seconds", "limit", "concurrent", "detail", "command")
MARK = "DGKIT_GPU_CHECK"  # environment variable that identifies the processes of a step in any session
LEAST = 5.0  # seconds; no step is started with less time
DUMP_SECONDS = 0.5  # for the processes of a step to write where they are
# Imported by every Python with its folder in PYTHONPATH, so that a step that times out prints where it hangs.
HOOK = "import faulthandler, os, signal\nfaulthandler.register(signal.SIGUSR1, os.dup(2))\n"  # pytest replaces 2
DUMP = re.compile("^(Current thread|Thread) 0x", re.MULTILINE)
PATIENCE = 2  # time limit of a background step, relative to its expected time
PLANS: dict[str, type[Plan] | type[QuickPlan]] = {"quick": QuickPlan, "speed": Plan}
NAMES = [
    step.name for name, plan in reversed(PLANS.items())
    for step in plan(SIZES[name][0], Machine(True, True, True, ""), Path()).steps()
]  # fmt: skip
REPORT_SECONDS = 60
SHOWN = ("step", "network", "engine", "dtype", "batch", "ms_median", "images_per_hour", "x_official", "tflops", "share",
         "gbytes", "parity", "psnr", "error")  # fmt: skip


@dataclass
class Running:
    """A step that was started; ``concurrent`` collects the steps that ran at the same time."""

    step: Step
    process: subprocess.Popen[bytes]
    log: Path
    started: float
    limit: float
    concurrent: set[str] = field(default_factory=set)


class Check:
    """Runs steps and records their results."""

    def __init__(self, out: Path, work: Path, seconds: float, environment: dict[str, str]) -> None:
        self.out, self.work, self.environment = out, work, environment
        self.deadline = time.monotonic() + seconds
        self.states: dict[str, str] = {}
        self.running: list[Running] = []
        for name in ("steps.csv", "bench.csv", "log.txt"):
            (out / name).unlink(missing_ok=True)

    def run(self, steps: Sequence[Step]) -> None:
        """Run all steps. A step may use the time left by earlier ones, but not what later ones are expected to need.

        Background steps that no other step waited for are waited for at the end.
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
            interrupt(running.process)  # all of them first, so that they clean up at the same time
        for running in self.running:
            end(running.process, mark(running.step))
        kill_all(mark())  # a step that is just being started is in no list yet

    def _start(self, step: Step, limit: float) -> Running:
        command = [str(word) for word in step.command]
        variables = {**self.environment, MARK: mark(step).partition("=")[2], LIMIT: f"{limit:.1f}"}
        if step.background:  # half of the cores, at low priority
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
            running.concurrent.add(other.step.name)
            other.concurrent.add(step.name)
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
            time.sleep(DUMP_SECONDS)
        seconds = time.monotonic() - running.started
        end(running.process, mark(step))  # also processes that a finished step left behind
        self.running.remove(running)
        text = running.log.read_text(encoding="utf-8", errors="replace")
        with (self.out / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"===== {step.name}: {' '.join(map(str, step.command))}\n{text.rstrip()}\n")
        detail, errors = summary(text, state, code), self._take_rows(step, running.concurrent)
        if errors and state == "ok":
            state, detail = "partly", f"{len(errors)} rows with an error, the first: {errors[0]}"
        self._write(step, state, seconds, running.limit, running.concurrent, detail)

    def _take_rows(self, step: Step, concurrent: set[str]) -> list[str]:
        """Append the rows of a step to bench.csv, with its name and the concurrent steps; return the errors in them."""
        if step.rows is None or not step.rows.is_file():
            return []
        with step.rows.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        for row in rows:
            append(self.out / "bench.csv", {"step": step.name, "concurrent": " ".join(sorted(concurrent)), **row})
        return [row["error"] for row in rows if row.get("error")]

    def _write(self, step: Step, state: str, seconds: float, limit: float, concurrent: set[str], detail: str) -> None:
        self.states[step.name] = state
        words = (str(word) for word in step.command)
        command = " ".join(words).replace(sys.executable, "python").replace(f"{ROOT}{os.sep}", "")
        values = (step.name, state, f"{seconds:.1f}", f"{limit:.0f}", " ".join(sorted(concurrent)), detail, command)
        append(self.out / "steps.csv", dict(zip(COLUMNS, values, strict=True)))
        print(f"{step.name:<17} {state:<8} {seconds:6.1f} s  {detail}", flush=True)


def append(path: Path, row: dict[str, str]) -> None:
    """Append a row, with the columns of the file, and flush it to the disk."""
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(row), lineterminator="\n")
        if stream.tell() == 0:
            writer.writeheader()
        writer.writerow(row)
        stream.flush()
        os.fsync(stream.fileno())


def mark(step: Step | None = None) -> str:
    """Return the start of a variable that only processes of this step have; without a step, those of all steps."""
    return f"{MARK}={os.getpid()}-" + (f"{step.name};" if step else "")


def summary(text: str, state: str, code: int) -> str:
    """Return one line for the table: the line that names the error, else the last line that is not a stack frame.

    It includes where a step was that timed out, and the exit code of one that a signal ended, to which a shell or
    ``nice`` adds 128.
    """
    printed, place = text, ""
    if state == "timeout" and (dump := DUMP.search(text)):
        printed, place = text[: dump.start()], text.rpartition("Current thread")[2]
    lines = [line.strip() for line in printed.splitlines() if line.strip()[:1].isalnum()]
    if state != "ok":
        lines = [line for line in lines if line.startswith("error:") or "Error" in line.split(":")[0]][-1:] or lines
    words = lines[-1][:160] if lines else ""
    if place:
        return f"{words}; at {place.splitlines()[1].strip()}".removeprefix("; ")
    return f"exit code {code}: {words}" if code < 0 or code > 128 else words


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install for this check only")
    parser.add_argument("--size", choices=tuple(PLANS), default="speed", help="quick: does it work? speed (default)")
    parser.add_argument("--minutes", type=float, help="time limit of the check (default: 3 for quick, 9.5 for speed)")
    parser.add_argument("--steps", help=f"only these; the others count as done: {','.join(NAMES)}")
    parser.add_argument("--parts", help="parts of the step measure, see measure.py")
    parser.add_argument("--work", type=Path, help="folder for engines and logs, which is kept")
    parser.add_argument("--dry-run", action="store_true", help="run the steps on a CPU, in the smallest size")
    given = parser.parse_args()
    unknown = set(given.steps.split(",") if given.steps else ()) - set(NAMES)
    if unknown:
        parser.error(f"unknown step {min(unknown)!r}; known: {', '.join(NAMES)}")
    if given.wheels and not list(given.wheels.glob("*.whl")):
        parser.error(f"--wheels {given.wheels} contains no .whl file")
    return given


def main() -> int:
    """Return exit code 0, or 1 if a step failed or ran out of time, or if there is no CUDA device."""
    given = read_arguments()
    chosen = given.steps.split(",") if given.steps else NAMES
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    given.out.mkdir(parents=True, exist_ok=True)
    work = (given.work or Path(tempfile.mkdtemp(prefix="dgkit-gpu-"))).resolve()
    (work / "site").mkdir(parents=True, exist_ok=True)
    (work / "site" / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
    size = SIZES[given.size][given.dry_run]
    check = Check(given.out.resolve(), work, 60 * (given.minutes or size.minutes), variables(work, ROOT))
    try:
        if given.wheels:
            install = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--upgrade", "--target"]
            check.run([Step("wheels", [*install, work / "site", *sorted(given.wheels.resolve().glob("*.whl"))], 60)])
        check.run([Step("environment", [*DGKIT, "doctor", "--json"], 60)])
        machine = Machine.read(environment(work / "environment.log", check.out / "environment.json"))
        steps = PLANS[given.size](size, machine, work, given.parts).steps()
        check.run([step for step in steps if step.name in chosen])
        check.deadline = time.monotonic() + REPORT_SECONDS
        report = ("--gpu-report", check.out / "report.json", "--check", check.out)
        check.run([Step("report", [*DGKIT, "doctor", *report], REPORT_SECONDS)])
    finally:
        check.stop()
        print_rows(check.out / "bench.csv")
        if given.work is None:
            shutil.rmtree(work, ignore_errors=True)
    if not machine.cuda and not given.dry_run:
        print("nothing was measured: this machine has no CUDA device; run the steps on a CPU with --dry-run")
        return 1
    return int(any(state not in ("ok", "skipped") for state in check.states.values()))


def variables(work: Path, root: Path) -> dict[str, str]:
    """Return the environment of all steps: packages of the wheels first, caches in ``work``, no network."""
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
    """Return what doctor printed, and write it to ``out``; empty if it failed."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
        found: dict[str, Any] = json.loads(
            text[text.index("{\n") : text.rindex("}") + 1]
        )  # libraries print warnings around it
    except (OSError, ValueError):
        return {}
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def print_rows(path: Path) -> None:
    """Print the figures, one line per row."""
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                print("  ".join(f"{name} {row[name]}" for name in SHOWN if row.get(name)))


if __name__ == "__main__":
    sys.exit(main())
