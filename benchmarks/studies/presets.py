"""Cost and quality of the sampler presets: evaluations, speed, label agreement; and an ablation of their settings.

    python benchmarks/studies/presets.py WORK --judge JUDGE                          the embedded model, CPU
    python benchmarks/studies/presets.py WORK --judge JUDGE --device cuda --dtype bf16 --batch 64 --count 96
    python benchmarks/studies/presets.py WORK --judge JUDGE --count 4 --cells exact,fast,turbo     a first look
    python benchmarks/studies/presets.py WORK --judge JUDGE --ablation --count 32 --engine openvino    on two cores
    python benchmarks/studies/presets.py WORK --model random:sd15 --count 2 --cells official,exact,fast    cost only

JUDGE is a folder of `dgkit train judge`. Labels, prompts and seeds are the same in all cells: crops of city scenes that
neither model nor judge was trained on, with all styles equally often. A cell is a preset, or `exact` with other
settings; each is drawn and timed in memory by one open pipeline after a warm-up, then judged. Everything is kept in
WORK: run the command again to resume with the first unfinished cell. Writes presets.csv and presets.svg to --results;
with --ablation (`exact` with each setting of `fast` alone, `fast` without each) preset_leads.csv and preset_leads.svg.

`samples` counts denoiser evaluations per image (a window in one guidance half); `fewer` is the ratio of those of the
published schedule (preset official) to it. `d_*` are points of difference from the cell `base` on the same labels,
`*_sd` their standard deviation by a bootstrap over the images.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from preset_cells import add_options, chosen
from records import Row, study_parser, write_rows

from dgkit.bench.scatter import Point, scatter
from dgkit.data.crops import CropRules
from dgkit.data.generated import LabelledImage, SceneFiles
from dgkit.data.scores import SMALL_CLASSES, mean_iou, summary
from dgkit.data.style_mixes import STYLE_MIXES
from dgkit.diffusion.loading import load_pipeline
from dgkit.diffusion.pipeline import Pipeline
from dgkit.diffusion.presets import PRESETS, find_preset
from dgkit.diffusion.sampler import SceneRequest, sample
from dgkit.diffusion.sampling_plan import SamplingPlan
from dgkit.evaluation.quality.measures import Measurement, QualityJudge, compare, find_judge
from dgkit.evaluation.quality.renders import PairedRenders
from dgkit.files import atomic_path, atomic_write
from dgkit.generation.city_source import index_world
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.jobs import JobPlan, make_job
from dgkit.labels import CLASSES
from dgkit.provenance import cpu_name, git_commit, versions

SHOWN = 6  # images of each cell that are kept for inspection
RESAMPLES = 400


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Labels uint8 [N,S,S], and for each the prompt, style, noise seed, scene and crop."""

    labels: np.ndarray
    prompts: list[str]
    styles: list[str]
    seeds: list[int]
    sources: list[str]
    crops: list[tuple[int, int, int, int]]

    def requests(self) -> list[SceneRequest]:
        return [SceneRequest(*one) for one in zip(self.labels, self.prompts, self.seeds, strict=True)]

    def pictures(self, images: Sequence[np.ndarray]) -> list[LabelledImage]:
        numbered = enumerate(zip(images, self.labels, self.styles, strict=True))
        return [LabelledImage(str(number), image, label, style) for number, (image, label, style) in numbered]

    def paired_renders(self, height: int) -> PairedRenders:
        rows = zip(self.styles, self.sources, self.crops, strict=True)
        entries = [
            SceneFiles(str(n), Path(), Path(), style=style, source=source, crop=crop)
            for n, (style, source, crop) in enumerate(rows)
        ]
        return PairedRenders(entries, height)


def draw_scenes(kept: Path, given: argparse.Namespace, size: int, height: int) -> Scenes:
    """Return the scenes of all cells, from the file ``kept`` if it exists."""
    if not kept.exists():
        config = GenerateConfig(world=given.scenes, seed=given.seed, workers=given.workers)
        index = index_world(config, height, (size, size))
        plan = JobPlan(index, CropRules((size, size)), STYLE_MIXES["uniform"], given.seed)
        jobs = [make_job(plan, number) for number in range(given.count)]
        facts = {
            "prompts": [job.prompt for job in jobs], "styles": [job.style for job in jobs],
            "seeds": [job.seed for job in jobs], "sources": [job.source for job in jobs],
            "crops": [dataclasses.astuple(job.box) for job in jobs],
        }  # fmt: skip
        with atomic_path(kept) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, labels=np.stack([job.label for job in jobs]), facts=np.array(json.dumps(facts)))
    with np.load(kept) as file:
        facts = json.loads(str(file["facts"]))
        facts["crops"] = [tuple(crop) for crop in facts["crops"]]
        return Scenes(file["labels"], **facts)


@dataclasses.dataclass(frozen=True)
class Study:
    """What all cells share; without a ``judge`` only cost is measured."""

    work: Path
    pipeline: Pipeline
    scenes: Scenes
    judge: QualityJudge | None
    batch: int
    facts: Row

    def cell(self, name: str, setting: str) -> Row:
        """Return the figures and confusion matrices [N,19,19] of a cell; draw and judge it unless its file exists."""
        preset = find_preset(setting)
        key = {**{k: str(v) for k, v in self.facts.items()}, "preset": str(preset), "count": len(self.scenes.labels)}
        key["judge"] = json.dumps(self.judge and [m["sha256"] for m in self.judge.to_json().values()])
        digest = hashlib.sha256(json.dumps({k: v for k, v in key.items() if k not in UNKEYED}).encode()).hexdigest()
        kept = self.work / "cells" / f"{name.replace(' ', '-').replace('/', '_')}-{digest[:10]}.json"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            figures, images = self.drawn(preset)
            if self.judge:
                found, matrices = judged(self.scenes.pictures(images), self.judge)
                figures |= scores(found) | self.compare_renders(found)
                np.save(kept.with_suffix(".npy"), matrices)
            strip = np.concatenate(list(images[:SHOWN]), axis=1)
            Image.fromarray(strip).save(kept.with_suffix(".png"))
            atomic_write(kept, json.dumps({**figures, **self.facts}).encode())
        row = {"cell": name, "settings": setting, **json.loads(kept.read_text(encoding="utf-8"))}
        if self.judge:
            row["matrices"] = np.load(kept.with_suffix(".npy"))
        return row

    def drawn(self, preset: Any) -> tuple[Row, list[np.ndarray]]:
        """Return the evaluations and times per image, and the images."""
        requests, plan = self.scenes.requests(), SamplingPlan(preset, self.pipeline.info)
        costs = [plan.cost(request.label) for request in requests]
        counted: list[float] = [0]
        together = max(1, self.batch // 2)
        quick = dataclasses.replace(preset, steps=min(4, preset.steps))
        sample(self.pipeline, requests[:together], quick, batch=self.batch)
        runners = self.pipeline.runners
        for runner in runners.values():
            runner.synchronize = True  # else the time of a network on a GPU is that of its kernel launches
        before = {name: runner.timing.seconds for name, runner in runners.items()}
        started = time.perf_counter()
        results = sample(
            self.pipeline, requests, preset, batch=self.batch, progress=lambda done, total: counted.append(done)
        )
        seconds = time.perf_counter() - started
        inside = {name: runner.timing.seconds - before[name] for name, runner in runners.items()}
        count, total = len(requests), sum(cost.total for cost in costs)
        if counted[-1] != total and not any(result.retried for result in results):
            raise SystemExit(f"{preset.name}: {counted[-1]:.0f} evaluations were made, {total} expected")
        official = SamplingPlan(find_preset("official"), self.pipeline.info).cost(requests[0].label).total
        figures: Row = {
            "images": count, "samples": total / count, "samples_first": sum(cost.first for cost in costs) / count,
            "samples_second": sum(cost.second for cost in costs) / count, "fewer": official * count / total,
            "ms_image": 1e3 * seconds / count, "images_per_hour": 3600 * count / seconds,
            "share_denoiser": inside["denoiser"] / seconds, "share_condition": inside["condition"] / seconds,
            "share_vae": (inside["vae_encoder"] + inside["vae_decoder"]) / seconds,
            "share_outside": 1 - sum(inside.values()) / seconds, "retried": sum(result.retried for result in results),
        }  # fmt: skip
        return figures, [result.image for result in results]

    def compare_renders(self, found: Measurement) -> Row:
        """Return figures relative to paired renders: the same scenes in the same styles."""
        assert self.judge is not None
        drawn = hashlib.sha256(self.scenes.labels.tobytes() + json.dumps(self.scenes.styles).encode()).hexdigest()
        kept = self.work / f"renders-{self.judge.segmenter.digest[:10]}-{drawn[:10]}.npz"
        if not kept.exists():
            height = self.pipeline.defaults.label_height or self.pipeline.size
            real, _ = judged(self.scenes.paired_renders(height), self.judge)
            with atomic_path(kept) as temporary, temporary.open("wb") as file:
                np.savez(file, matrix=real.matrix, features=np.stack(real.features))
        with np.load(kept) as file:
            real = Measurement(matrix=file["matrix"], features=list(file["features"]))
        against = compare(found, real)
        return {
            "real_miou": mean_iou(real.matrix), "real_small_miou": mean_iou(real.matrix, SMALL_CLASSES),
            "relative_miou": against["relative_miou"], "frechet_distance": against["frechet_distance"],
        }  # fmt: skip


UNKEYED = ("commit", "load_average")  # may differ between cells of one table


def judged(pictures: Any, judge: QualityJudge) -> tuple[Measurement, np.ndarray]:
    """Return the judge's measurement, and the confusion matrix of each picture, int64 [N,19,19]."""
    found, matrices = Measurement(), []
    for picture in pictures:
        before = found.matrix.copy()
        found.add(picture, judge)
        matrices.append(found.matrix - before)
    return found, np.stack(matrices)


def scores(found: Measurement) -> Row:
    agreement, seen = summary(found.matrix), found.to_json()
    return {
        **{name: agreement[name] for name in ("miou", "small_miou", "pixel_accuracy")},
        "style_accuracy": seen["style"]["accuracy"] if seen["style"] else None,
        "diversity": seen["diversity"],
    }


def differences(row: Row, base: Row) -> Row:
    """Return the points by which a cell differs from ``base`` on the same labels, with their standard deviation."""
    mine, other = row["matrices"], base["matrices"]
    rng, found = np.random.default_rng(0), Row()
    draws = rng.integers(0, len(mine), (RESAMPLES, len(mine)))
    for name, classes in (("miou", CLASSES), ("small_miou", SMALL_CLASSES)):
        whole = mean_iou(mine.sum(0), classes) - mean_iou(other.sum(0), classes)
        again = [mean_iou(mine[d].sum(0), classes) - mean_iou(other[d].sum(0), classes) for d in draws]
        found |= {f"d_{name}": 100 * whole, f"d_{name}_sd": 100 * float(np.std(again))}
    return found


def draw(rows: Sequence[Row]) -> str:
    """Return an SVG document of quality against evaluations."""
    titles = {"miou": "label agreement (mIoU, %)", "small_miou": "small classes (mIoU, %)"}
    shown = [row for row in rows if row.get("miou") is not None and row["cell"] != "official"]
    panels = []
    for metric, title in titles.items():
        points = [
            Point(row["samples"], 100 * row[metric], f"{row['cell']} ({row['samples']:.0f})", row["cell"] in PRESETS)
            for row in shown
        ]
        panels.append((f"{title} against evaluations of the denoiser for an image", points))
    return scatter(panels)


def write(rows: Sequence[Row], results: Path, name: str) -> None:
    shown = [{key: value for key, value in row.items() if key != "matrices"} for row in rows]
    rounded = [{k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in shown]
    write_rows(results / f"{name}.csv", rounded)
    (results / f"{name}.svg").write_text(draw(shown), encoding="utf-8")


def report(row: Row) -> str:
    quality = ""
    if row.get("miou") is not None:
        quality = f"{100 * row['miou']:7.2f} {row['d_miou']:+6.2f} ± {row['d_miou_sd']:4.2f}"
        quality += f"{100 * row['small_miou']:8.2f} {row['d_small_miou']:+6.2f} ± {row['d_small_miou_sd']:4.2f}"
        quality += f"{100 * row['style_accuracy']:7.1f} {row['frechet_distance']:7.2f}"
    speed = f"{row['samples']:7.1f} {row['fewer']:6.1f}x {row['ms_image']:8.1f} ms {row['images_per_hour']:9,.0f}/h"
    return f"{row['cell']:22} {speed} vae {row['share_vae']:4.0%} {quality}"


def main() -> None:
    parser = study_parser(__doc__, "working folder; the same one resumes the study")
    parser.add_argument("--judge", type=Path, help="folder of dgkit train judge; default: measure cost only")
    add_options(parser)
    parser.add_argument("--engine", default="torch")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that draw the scenes")
    given = parser.parse_args()
    cells = chosen(given, parser)
    pipeline = load_pipeline(given.model, engine=given.engine, device=given.device, dtype=given.dtype)
    size, height = pipeline.size, pipeline.defaults.label_height or pipeline.size
    kept = given.work / f"scenes-{given.seed}-{given.scenes}-{given.count}-{size}.npz"
    judge = find_judge(given.judge, None, None) if given.judge else None
    with pipeline:
        import torch

        gpu = torch.cuda.get_device_name() if pipeline.device.type == "cuda" else ""
        identity = pipeline.identity()
        facts = {**{key: identity[key] for key in ("name", "digest", "engine", "dtype")}, "batch": given.batch,
                 "seed": given.seed, "device": gpu or cpu_name(), "threads": torch.get_num_threads(),
                 "torch": versions()["torch"], "commit": git_commit(), "load_average": os.getloadavg()[0]}  # fmt: skip
        study = Study(given.work, pipeline, draw_scenes(kept, given, size, height), judge, given.batch, facts)
        rows: dict[str, Row] = {}
        for name, (setting, base) in cells.items():
            row = {"base": base, **study.cell(name, setting)}
            rows[name] = {**row, **(differences(row, rows.get(base, row)) if judge else {})}
            print(report(rows[name]), flush=True)
            write(list(rows.values()), given.results, "preset_leads" if given.ablation else "presets")


if __name__ == "__main__":
    main()
