"""Domain generalisation: segmenters trained with and without generated scenes, evaluated on unseen targets.

    python benchmarks/studies/generalisation.py WORK --unswapped MODEL
    python benchmarks/studies/generalisation.py WORK --unswapped MODEL --model M \\
        --recipe training/segmenter/daformer_mitb5.py --source gta=DIR --on cityscapes=DIR --on bdd=DIR \\
        --on mapillary=DIR --on acdc=DIR --on darkzurich=DIR

Without ``--source`` and ``--on``, ``dgkit world`` draws both. One segmenter is trained for each arm of the table and
each seed, all for the same number of iterations; an arm is the source set alone, or half of it and half of a generated
set. ``--unswapped`` is the model whose UNet was fine-tuned on the source (docs/guides/training.md), for the arm without
style swap. ``--also`` names further sets, such as photographs, which no mean includes. Everything is kept in WORK: run
the command again to resume; what is finished is kept. Writes benchmarks/results/generalisation.csv (one line per arm,
seed and set), generalisation.md (the table) and generalisation.svg. docs/results/generalisation.md has the command and
the hardware of the recorded run, and its figures next to the published ones.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from generalisation_arms import ARMS, BASELINE, FULL, RENDERS, Arm
from generalisation_table import plot, table
from PIL import Image
from records import Row, study_parser, write_rows

from dgkit.data import manifest
from dgkit.data.crops import CropBox, crop
from dgkit.data.labelmap import read_label, write_label
from dgkit.data.layouts import LAYOUTS
from dgkit.files import atomic_path, atomic_write
from dgkit.provenance import cpu_name, git_commit
from dgkit.world import render
from dgkit.world.disk_layouts import resolve_split, scene_index

TARGETS = ("cityscapes", "bdd", "mapillary", "acdc", "darkzurich")
FIRST_SEED = 9_000  # of the source scenes, followed by the targets'; no model was trained on any of them


@dataclass(frozen=True)
class Training:
    """One segmenter: trained into ``out`` by a recipe with changed settings, evaluated on ``on`` and ``also``."""

    out: Path
    recipe: Path
    sets: tuple[str, ...]
    on: tuple[str, ...]
    also: tuple[str, ...]
    protocol: dict[str, Any]
    device: str
    threads: int
    label: str = ""
    """of the protocol, in the names of the result and of the folder of the evaluation"""

    @property
    def result(self) -> Path:
        return self.out.with_name(f"{self.out.name}{self.label and '-'}{self.label}.json")

    @property
    def done(self) -> bool:
        """Return whether it was evaluated on everything."""
        return self.result.exists() and set(self.also) <= set(json.loads(self.result.read_bytes()).get("also", ()))


@dataclass(frozen=True)
class Job:
    """A call to make once the jobs named in ``after`` are done; ``spawned``: in one of the processes for trainings."""

    name: str
    after: tuple[str, ...]
    call: Callable[..., object]
    given: tuple[Any, ...] = ()
    spawned: bool = False


class Study:
    """The stages of the study, each of which keeps what exists."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.work = given, Path(given.work)
        self.work.mkdir(parents=True, exist_ok=True)

    def run(self) -> list[Row]:
        """Run all arms and seeds; SystemExit if a job failed."""
        jobs = list(self.jobs())
        failed = run_all(jobs, self.given.processes, self.given.generators)
        if failed:
            sys.exit(
                f"{len(failed)} of {len(jobs)} jobs failed: {', '.join(failed)}; run the command again to retry them"
            )
        return self.results()

    def results(self) -> list[Row]:
        """Return the rows measured so far."""
        return [line for name in self.given.arms for seed in range(self.given.seeds) for line in self.rows(name, seed)]

    def jobs(self) -> Iterator[Job]:
        """Yield the jobs in the order in which they start if they do not wait for each other."""
        given = self.given
        source, on = given.source or f"gta={self.work / 'source'}", tuple(given.on or self.targets())
        if not given.source:
            yield Job("source", (), self.draw, ("source", given.scenes, FIRST_SEED))
        if not given.on:
            for seed, name in enumerate(TARGETS, FIRST_SEED + 1):
                yield Job(name, (), self.draw, (name, given.targets, seed, "--split", "val"))
        first = () if given.source else ("source",)
        drawn = first + (() if given.on else TARGETS)
        arms = {name: ARMS[name] for name in given.arms}
        for name, arm in arms.items():
            if arm.made:
                yield Job(f"generated/{name}", first, self.generate, (source, name, arm))
        teacher = f"{BASELINE}-0"
        for name in dict.fromkeys(arm.folder for arm in arms.values() if arm.filtered):
            yield Job(f"filter/{name}", (f"generated/{name}", teacher), self.filter, (name,))
        if RENDERS in arms:
            yield Job(f"generated/{RENDERS}", (f"generated/{FULL}",), self.render)
        for seed in range(given.seeds):
            for name, arm in arms.items():
                training = self.training(name, seed, source, on)
                made = f"filter/{arm.folder}" if arm.filtered else f"generated/{arm.folder or name}"
                needed = () if arm.generated is None else (made,)
                if not training.done:
                    yield Job(training.out.name, drawn + needed, train_and_evaluate, (training,), spawned=True)
                elif training.out.name == teacher:
                    yield Job(teacher, (), lambda: "exists")

    def targets(self) -> list[str]:
        return [f"{name}={self.work / name}" for name in TARGETS]

    def draw(self, role: str, count: int, seed: int, *more: str) -> None:
        folder = self.work / role
        self._dgkit("world", folder, "--role", role, "--count", count, "--seed", seed, "--workers", cores(), *more)

    def generate(self, source: str, name: str, arm: Arm) -> None:
        """Generate the set of an arm; the last value of a repeated option counts."""
        given, model = self.given, self.given.unswapped if arm.unswapped else self.given.model
        count = arm.times * given.generated
        shared = ("--dataset", source, "--count", count, "--preset", given.preset, "--style-mix", "uniform",
                  "--workers", 0)  # fmt: skip
        run = ("--engine", given.engine, "--dtype", given.dtype, "--device", given.device, "--batch", given.batch)
        self._dgkit("generate", self.work / "generated" / name, *shared, *run, *(("--model", model) if model else ()),
                    *(arm.generated or ()))  # fmt: skip

    def filter(self, name: str) -> None:
        teacher = self.training(BASELINE, 0).out / "segmenter.onnx"
        self._dgkit("filter", self.work / "generated" / name, "--segmenter", teacher)

    def render(self) -> None:
        """Render the scenes of the full set in the same styles by the city: the upper bound of a generator."""
        full, out = self.work / "generated" / FULL, self.work / "generated" / RENDERS
        world = json.loads((self.work / "source" / "world.json").read_text(encoding="utf-8"))
        size, split = {key: world[key] for key in ("height", "width")}, resolve_split(world["role"], None)
        for record in manifest.read(full / "manifest.jsonl"):
            index = scene_index(split, int(record["source"]) - 1)  # files are counted from 1
            scene = render(world["role"], world["seed"], index, style=record["style"], **size)
            box = CropBox(*record["crop"])
            label = read_label(full / record["label"], "train_ids")
            if not np.array_equal(crop(scene.label, box), label):
                raise RuntimeError(f"{record['id']}: the rendered label map differs from the one in {full}")
            image = scene.image[box.y : box.y + box.height, box.x : box.x + box.width]
            write_label(out / record["label"], label)
            with atomic_path(out / record["image"]) as path:
                Image.fromarray(image).save(path, "PNG")

    def training(self, name: str, seed: int, source: str = "gta=", on: tuple[str, ...] = ()) -> Training:
        given, arm = self.given, ARMS[name]
        dataset, _, root = source.partition("=")
        changes: dict[str, Any] = {
            "seed": seed, "data.source.dataset": dataset, "data.source.root": root, "data.colour": arm.colour,
        }  # fmt: skip
        if arm.generated is not None:
            changes["data.generated"] = [str(self.work / "generated" / (arm.folder or name))]
        if arm.share != 0.5:
            changes["data.share"] = arm.share
        if arm.filtered or arm.own_filter:
            changes["data.filtered"] = True
        if (name, seed) == (BASELINE, 0):
            changes["export"] = True  # for the filter
        if not given.source:
            crop = {"data.crop": given.height, "data.rare_classes.min_pixels": 3000 * given.height**2 // 512**2}
            changes |= {"data.source.scale": (4 * given.height, given.height), **crop}
        sets = [*given.set, *(f"{key}={json.dumps(value)}" for key, value in changes.items())]
        threads = max(1, cores() // given.processes)
        return Training(self.work / "runs" / f"{name}-{seed}", given.recipe, tuple(sets), on, tuple(given.also),
                        given.protocol, given.eval_device, threads)  # fmt: skip

    def rows(self, name: str, seed: int) -> Iterator[Row]:
        path = self.training(name, seed).result
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            shared = {key: value for key, value in found.items() if key not in ("miou", "also")}
            for what, value in found["miou"].items():
                yield {"arm": name, "seed": seed, "set": what, "miou": round(100 * value, 4), **shared}

    def _dgkit(self, *words: object) -> None:
        command = ["dgkit", *map(str, words)]
        print("$", shlex.join(command), flush=True)
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-2:]
            raise RuntimeError(f"dgkit {words[0]} ended with exit code {done.returncode}: {' '.join(last)}")


def run_all(jobs: Sequence[Job], processes: int, threads: int) -> list[str]:
    """Run jobs once those they depend on are done; return the names of those that failed or depend on a failed one."""
    waiting, done, failed = list(jobs), set[str](), list[str]()
    running: dict[Future[object], Job] = {}
    started = time.monotonic()
    spawned = ProcessPoolExecutor(processes, get_context("spawn"), initializer=end_with, initargs=(os.getpid(),))
    with spawned as outside, ThreadPoolExecutor(threads) as here:
        try:
            while waiting or running:
                failed += [job.name for job in waiting if not set(failed).isdisjoint(job.after)]
                ready = [job for job in waiting if done.issuperset(job.after)]
                running |= {(outside if job.spawned else here).submit(job.call, *job.given): job for job in ready}
                waiting = [job for job in waiting if job not in ready and job.name not in failed]
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job, error = running.pop(future), future.exception()
                    (failed.append if error else done.add)(job.name)
                    text = error or future.result() or "done"
                    print(f"{(time.monotonic() - started) / 60:5.1f} min  {job.name}: {text}", flush=True)
        except KeyboardInterrupt:
            for pool in (outside, here):
                pool.shutdown(wait=False, cancel_futures=True)  # running jobs were interrupted, too
            raise
    return failed


def end_with(parent: int) -> None:
    """End this process once ``parent`` is gone, else the next run would train in the same folder."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def train_and_evaluate(training: Training) -> str:
    """Train or resume, evaluate, and write the figures."""
    import torch

    from dgkit.evaluation.benchmark.eval_config import EvalConfig
    from dgkit.evaluation.benchmark.evaluate import evaluate
    from dgkit.segmenters.opening import open_segmenter
    from dgkit.training.segmenter.segmenter_recipe import load_segmenter
    from dgkit.training.segmenter.segmenter_training import train_segmenter

    torch.set_num_threads(training.threads)
    started = time.monotonic()
    made = train_segmenter(load_segmenter(training.recipe, training.sets, training.out))
    trained = time.monotonic() - started
    config = EvalConfig(
        on=(*training.on, *training.also),
        worst=0,
        device=training.device,
        batch=8,
        workers=training.threads,
        **training.protocol,
    )
    segmenter = open_segmenter(made["checkpoint"], "torch", device=training.device, batch=config.batch)
    report = evaluate(segmenter, config, training.result.with_name(f"{training.result.stem}-eval"))
    scores = means(report, training.also)
    result = {"loss": round(made["loss"], 4), "seconds": round(trained, 1), **machine()}
    if training.result.exists():
        result = json.loads(training.result.read_bytes())  # from the training, if only sets were added
    result |= {"miou": scores, "also": training.also}
    atomic_write(training.result, json.dumps(result, indent=2).encode())
    averages = ", ".join(f"{name} {100 * value:.2f}" for name, value in report["averages"].items())
    total = time.monotonic() - started
    return f"loss {made['loss']:.3f}, {averages}, {trained:.0f} s + {total - trained:.0f} s"


def means(report: dict[str, Any], also: Sequence[str]) -> dict[str, float]:
    """Return the mIoU of each set and condition, their averages, and last that of the sets ``also``."""
    sets, extra = report["sets"], [text.partition("=")[0] for text in also]
    scores = {name: entry["miou"] for name, entry in sets.items() if name not in extra}
    for name, entry in sets.items():
        scores |= {f"{name} {condition}": part["miou"] for condition, part in entry["conditions"].items()}
    return scores | report["averages"] | {name: labelled_miou(sets[name]) for name in extra}


def labelled_miou(entry: dict[str, Any]) -> float:
    """Return the mean IoU over the classes that occur in the labels, for sets with fewer than 19."""
    return statistics.fmean(iou for iou, row in zip(entry["iou"].values(), entry["confusion"], strict=True) if sum(row))


def cores() -> int:
    return len(os.sched_getaffinity(0))


def make_parser(text: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of the study and the help ``text``."""
    parser = study_parser(text, "working folder; the same one resumes the study")
    parser.add_argument("--unswapped", help="model folder with the UNet that was fine-tuned on the source")
    parser.add_argument("--model", help="model folder or hub id; by default the embedded model")
    parser.add_argument("--source", metavar="NAME=DIR", help="labelled source set; default: scenes of the city")
    parser.add_argument("--on", action="append", metavar="NAME=DIR", help="target set; default: the five of the city")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=DIR", help="further set to evaluate on")
    parser.add_argument("--height", type=int, default=256, help="height of the city's pictures [pixels]")
    parser.add_argument(
        "--recipe", type=Path, default=Path(__file__).with_suffix(".yaml"), help="recipe of the segmenter"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="setting of the recipe")
    parser.add_argument("--arms", type=lambda text: text.split(","), help=f"some of {', '.join(ARMS)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=600, help="source scenes to draw")
    parser.add_argument("--targets", type=int, default=100, help="scenes of each target to draw")
    parser.add_argument("--generated", type=int, default=600, help="images of each generated set")
    parser.add_argument("--preset", default="exact", help="preset of dgkit generate, except for arms that name one")
    parser.add_argument("--dtype", default="bf16", help="number format of dgkit generate")
    parser.add_argument("--batch", type=int, default=8, help="batch of dgkit generate")
    parser.add_argument("--engine", default="torch", help="engine of dgkit generate")
    parser.add_argument("--device", default="auto", help="device of dgkit generate")
    parser.add_argument("--eval-device", default="auto", help="device of the evaluation")
    parser.add_argument("--report", action="store_true", help="only write the table of finished trainings")
    parser.add_argument("--processes", type=int, default=1, help="concurrent trainings")
    parser.add_argument("--generators", type=int, default=1, help="sets drawn or generated concurrently")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return the command line with the evaluation protocol; ends the program if options do not fit."""
    given = parser.parse_args()
    most = [name for name, arm in ARMS.items() if not arm.extra]
    given.arms = given.arms or [name for name in most if name != RENDERS or not given.source]
    unknown = [name for name in given.arms if name not in ARMS]
    strange = [text for text in given.also if text.partition("=")[0] not in LAYOUTS]
    if strange:
        parser.error(f"--also {', '.join(strange)} is not NAME=DIR; known names: {', '.join(LAYOUTS)}")
    targets = {text.partition("=")[0] for text in given.on or TARGETS}
    if again := targets.intersection(text.partition("=")[0] for text in given.also):
        parser.error(f"--also {', '.join(sorted(again))}: already a target; --on and --also must name different sets")
    if unknown:
        parser.error(f"unknown arms {', '.join(unknown)}; allowed: {', '.join(ARMS)}")
    if not given.unswapped and any(ARMS[name].unswapped for name in given.arms):
        parser.error("the arm no-swap needs --unswapped MODEL; add it, or leave the arm out of --arms")
    if given.source and RENDERS in given.arms:
        parser.error(
            f"the arm {RENDERS} renders scenes of the city and cannot be combined with --source; leave it out of --arms"
        )
    arms = [ARMS[name] for name in given.arms]
    needed = {BASELINE} | {arm.folder for arm in arms if arm.folder} | {FULL for arm in arms if arm.rendered}
    if needed - set(given.arms):
        parser.error(f"--arms lacks {', '.join(sorted(needed - set(given.arms)))}, which other arms depend on")
    # Pictures of the city are evaluated whole; the protocol of the papers is for their sets.
    given.protocol = {} if given.on else {"protocol": "whole", "scale": (4 * given.height, given.height)}
    return given


def main() -> None:
    given = parse(make_parser(__doc__))
    study = Study(given)
    try:
        rows = study.results() if given.report else study.run()
    except KeyboardInterrupt:
        sys.exit("stopped; run the same command to resume")
    if not rows:
        sys.exit(f"{given.work} holds no results yet")
    write_rows(given.results / "generalisation.csv", rows)
    (given.results / "generalisation.md").write_text(table(rows), encoding="utf-8")
    plot(rows, given.results / "generalisation.svg")
    print(table(rows))


def machine() -> dict[str, str]:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return {"cpu": cpu_name(), "gpu": gpu, "commit": git_commit() or ""}


if __name__ == "__main__":
    main()
