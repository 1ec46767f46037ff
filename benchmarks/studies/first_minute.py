"""What a new user waits for: start-up, the first scene, the demo, and a run of 100 scenes with nothing built before.

    python benchmarks/studies/first_minute.py WORK
    python benchmarks/studies/first_minute.py WORK --only start,demo

Every command is typed as the README has it, without options on speed, in a process and with a cache of its own. WORK
keeps the generated folders. Appends to first_minute.csv: `seconds` of the whole command, `first_s` until the first
image is in the folder, `images_per_hour` over the whole command, including start-up and the build of engines. Row
`start`: seconds until the first call of a network.
"""

import datetime
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from records import RESULTS, Row, read_rows, study_parser, write_rows

from dgkit.documents import parse_yaml
from dgkit.provenance import cpu_name, git_commit, versions
from dgkit.resources import load_average, usable_cores

COMMANDS = {
    "start": ("--count", "1"),
    "demo": ("--count", "16", "--style-mix", "uniform"),
    "hundred": ("--count", "100"),
}
RESOLVED = ("preset", "engine", "dtype", "batch", "workers")
POLL = 0.02  # seconds
# Ends the process at the first call of a network.
UNTIL_FIRST_CALL = """
import os, sys
from dgkit.engines.runner import Runner
Runner.__call__ = lambda *_, **__: os._exit(42)
from dgkit.cli.app import main
sys.exit(main(sys.argv[1:]))
"""


def main() -> None:
    parser = study_parser(__doc__, "folder for the generated scenes", RESULTS / "first_minute.csv")
    parser.add_argument("--only", default=",".join(COMMANDS), help="rows to measure, separated by commas")
    given = parser.parse_args()
    for name in given.only.split(","):
        work = given.work / name
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        row = {"what": name, **measure(name, work), **facts()}
        print(row)
        write_rows(given.results, [*read_rows(given.results), row])


def measure(name: str, work: Path) -> Row:
    """Run a command with its files in ``work``, and return its times and what it chose."""
    out, code = work / "scenes", 42 if name == "start" else 0
    program = ["-c", UNTIL_FIRST_CALL] if name == "start" else ["-m", "dgkit"]
    command = [sys.executable, *program, "generate", str(out), *COMMANDS[name]]
    environment = {**os.environ, "DGKIT_CACHE": str(work / "cache")}
    first, started = None, time.perf_counter()
    with (work / "log.txt").open("w") as log, subprocess.Popen(command, env=environment, stderr=log) as process:
        while process.poll() is None:
            time.sleep(POLL)
            if first is None and any(out.glob("images/*.png")):
                first = time.perf_counter() - started
    seconds = time.perf_counter() - started
    if process.returncode != code:
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}; see {work / 'log.txt'}")
    if name == "start":
        return {"seconds": round(seconds, 2)}
    images = int(COMMANDS[name][1])
    config = parse_yaml((out / "config.yaml").read_text(encoding="utf-8"))
    chosen = {key: config.get(key) for key in RESOLVED}
    rate = round(3600 * images / seconds)
    return {"seconds": round(seconds, 2), "first_s": round(first or seconds, 2), "images_per_hour": rate, **chosen}


def facts() -> Row:
    """Return what the times depend on."""
    return {
        "run": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "cpu": cpu_name(),
        "cores": len(usable_cores()), "load_average": round(load_average(), 2), "commit": git_commit(),
        "versions": " ".join(f"{name} {versions().get(name)}" for name in ("torch", "diffusers", "openvino")),
    }  # fmt: skip


if __name__ == "__main__":
    main()
