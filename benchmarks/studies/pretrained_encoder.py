"""EfficientNet-Lite0 with ImageNet weights against MiT-B0 from random weights, in the same processor time.

    python benchmarks/studies/pretrained_encoder.py WORK --camvid DIR       run it again to resume

All networks learn on scenes of the city, 256 x 256 crops, with the same head and batch; they are scored on the
photographs of CamVid's validation split, 11 classes. A short run measures the processor time of an iteration, and each
network gets the number of iterations that fit into --minutes. The trainings run at the same time, one thread each, and
change cores every 30 seconds, so that none has the less busy core. Writes benchmarks/results/pretrained_encoder.csv
(one line per checkpoint) and pretrained_encoder.svg.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from records import Row, study_parser, write_rows

from dgkit.files import atomic_write
from dgkit.provenance import cpu_name, git_commit

ENCODER = {"lr": 1e-4, "head_lr": 10.0}
# Arm -> text, settings of the recipe, its schedule.
ARMS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "mit_b0": ("MiT-B0, random weights", {"backbone": "mit_b0"}, {"lr": 6e-4, "head_lr": 10.0}),
    "lite0": (
        "EfficientNet-Lite0, ImageNet, fine-tuned",
        {"backbone": "efficientnet_lite0", "freeze": "norms"},
        ENCODER,
    ),
    "lite0-frozen": (
        "EfficientNet-Lite0, ImageNet, frozen",
        {"backbone": "efficientnet_lite0", "freeze": True},
        ENCODER,
    ),
}
PACE, WARM = 10, 4  # iterations that measure the pace, the first of which do not count
TURN = 30  # seconds between two changes of cores


def main() -> None:
    parser = study_parser(__doc__, "folder for scenes and trainings")
    parser.add_argument("--camvid", type=Path, required=True, help="folder of CamVid")
    parser.add_argument("--minutes", type=float, default=10, help="processor time of each training")
    parser.add_argument("--arms", type=lambda text: text.split(","), default=list(ARMS), help=", ".join(ARMS))
    parser.add_argument("--scenes", type=int, default=600, help="scenes of the city to draw")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--checkpoints", type=int, default=10, help="points of each curve")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        train(given, given.only)
        return
    from dgkit.world.write import write_role

    write_role(given.work / "source", "source", given.scenes, 9_000, height=256, workers=2)
    side_by_side(given.arms)
    rows = [row for name in given.arms for row in scores(given, name)]
    write_rows(given.results / "pretrained_encoder.csv", rows)
    plot(rows, given.results / "pretrained_encoder.svg")
    for name in given.arms:
        print(f"{[row['miou'] for row in rows if row['arm'] == name][-1]:6.2f}  {ARMS[name][0]}")


def side_by_side(names: list[str]) -> None:
    """Train all arms at the same time, each on one core; RuntimeError if one fails."""
    cores = sorted(os.sched_getaffinity(0))
    command = [sys.executable, *sys.argv, "--only"]
    setting = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    children = [subprocess.Popen([*command, name], env=setting) for name in names]
    for turn in itertools.count():
        running = [child for child in children if child.poll() is None]
        if not running:
            break
        for number, child in enumerate(running):
            os.sched_setaffinity(child.pid, {cores[(turn + number) % len(cores)]})
        until = time.monotonic() + TURN
        while time.monotonic() < until and any(child.poll() is None for child in running):
            time.sleep(0.5)
    failed = [name for name, child in zip(names, children, strict=True) if child.returncode]
    if failed:
        raise RuntimeError(f"{', '.join(failed)} failed; run the same command to resume")


def recipe(given: argparse.Namespace, name: str, out: Path, steps: int, every: int) -> Any:
    from dgkit.training.segmenter.segmenter_recipe import SegmenterRecipe

    _, network, schedule = ARMS[name]
    data = {"source": {"dataset": "gta", "root": given.work / "source"}, "taxonomy": "camvid11", "crop": 256,
            "rare_classes": {"min_pixels": 750}, "workers": 0, "cache": True}  # fmt: skip
    train = {"steps": steps, "batch": given.batch, "warmup": min(100, steps // 4), "checkpoint_every": every,
             "keep": 1000, **schedule}  # fmt: skip
    return SegmenterRecipe.model_validate(
        {"head": "segformer", **network, "export": False, "out": out, "data": data, "train": train}
    )


def train(given: argparse.Namespace, name: str) -> None:
    """Measure the pace, then train; the clock of each iteration is kept in WORK/ARM.jsonl."""
    import torch

    from dgkit.training.segmenter.segmenter_training import train_segmenter

    torch.set_num_threads(1)
    clock = Clock(given.work / f"{name}.jsonl")
    pace = given.work / f"{name}.pace.json"
    if not pace.exists():
        started = Clock(given.work / f"{name}.pace.jsonl")
        train_segmenter(recipe(given, name, given.work / f"{name}-pace", PACE, PACE), started.tick)
        times = dict(started.read())
        atomic_write(pace, json.dumps((times[PACE] - times[WARM]) / (PACE - WARM)).encode())
    seconds = json.loads(pace.read_bytes())
    every = max(1, round(60 * given.minutes / seconds / given.checkpoints))
    clock.restart()
    train_segmenter(recipe(given, name, given.work / name, every * given.checkpoints, every), clock.tick)


class Clock:
    """Processor time of this process after each iteration, added to that of the interrupted runs before it."""

    def __init__(self, path: Path) -> None:
        self.path, self.before, self.start = path, 0.0, time.process_time()
        self.first = True

    def restart(self) -> None:
        """Count from now."""
        self.start = time.process_time()

    def tick(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Note the time of an iteration."""
        if stage != "segmenter" or not done:
            return
        if self.first:  # iterations after the last checkpoint are repeated; their time does not count twice
            self.before = max((seconds for step, seconds in self.read() if step < done), default=0.0)
            self.first = False
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([int(done), self.before + time.process_time() - self.start]) + "\n")
        if done % 50 == 0 or done == total:
            print(f"{self.path.stem} {done:g}/{total:g} {note}", flush=True)

    def read(self) -> list[tuple[int, float]]:
        """Return iterations and seconds, the last entry of an iteration being the valid one."""
        if not self.path.exists():
            return []
        return [(step, seconds) for step, seconds in map(json.loads, self.path.read_text().splitlines())]


def scores(given: argparse.Namespace, name: str) -> Iterator[Row]:
    """Yield a row for each checkpoint of an arm."""
    from dgkit.evaluation.benchmark.eval_config import EvalConfig
    from dgkit.evaluation.benchmark.evaluate import evaluate
    from dgkit.segmenters.opening import open_segmenter
    from dgkit.training.segmenter.checkpoints import list_checkpoints

    config = EvalConfig(on=(f"camvid={given.camvid}",), protocol="whole", scale=(1024, 256), worst=0, workers=1)
    times = dict(Clock(given.work / f"{name}.jsonl").read())
    for path in list_checkpoints(given.work / name):
        step = int(path.stem.rpartition("_")[2])
        found = evaluate(open_segmenter(path), config, given.work / f"eval-{name}" / path.stem)["sets"]["camvid"]
        yield {
            "arm": name, "network": ARMS[name][0], "iteration": step, "images": step * given.batch,
            "processor_seconds": round(times[step], 1), "miou": round(100 * found["miou"], 3),
            "pixel_accuracy": round(100 * found["pixel_accuracy"], 3), "cpu": cpu_name(), "commit": git_commit() or "",
        }  # fmt: skip


def plot(rows: list[Row], path: Path) -> None:
    """Draw the mIoU of each arm over its processor time; SVG."""
    from dgkit.optional import require

    require("matplotlib", "seg").use("svg")
    drawn, axes = require("matplotlib.pyplot", "seg").subplots(figsize=(6.5, 3.8))
    for name in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == name]
        axes.plot(
            [row["processor_seconds"] / 60 for row in own], [row["miou"] for row in own], "o-", label=ARMS[name][0]
        )
    axes.set_xlabel("processor time of the training [minutes]")
    axes.set_ylabel("mIoU on CamVid val, 11 classes [%]")
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right")
    drawn.tight_layout()
    drawn.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
