"""Ablation of DGInStyle's ideas: label control, style prompts, style swap, latent fusion, rare class generation.

    python benchmarks/studies/ideas.py WORK --judge JUDGE
    python benchmarks/studies/ideas.py WORK --judge JUDGE --count 24 --two-pass 8 --seeds 1     a first look, in minutes

WORK is a finished `dgkit train city` folder, JUDGE one of `dgkit train judge`. Label maps are cut from source scenes
that neither was trained on, with all styles equally often. Everything is kept in WORK/ideas: run the command again to
resume; finished cells are kept. Writes benchmarks/results/ideas.csv (one line per seed, cell and metric) and ideas.md,
the table with the target of each figure. With the embedded model on two cores an image takes 0.3 s in one pass and 8 s
in two.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ideas_table import RAREST, table
from records import Row, study_parser, write_rows

import dgkit
from dgkit.data.crops import CropRules
from dgkit.data.generated import SceneFiles, list_scenes
from dgkit.data.scores import summary
from dgkit.data.style_mixes import STYLE_MIXES
from dgkit.evaluation.quality.measures import Measurement, QualityJudge, compare, find_judge, measure
from dgkit.evaluation.quality.renders import render_reference
from dgkit.files import atomic_write, digest_file
from dgkit.generation.city_source import index_world
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.jobs import JobPlan, make_job
from dgkit.labels import NUM_CLASSES
from dgkit.provenance import cpu_name, git_commit, versions

FIRST_SEED = 5_000  # of scenes, crops and noise


@dataclass(frozen=True)
class Study:
    """What all cells share."""

    work: Path
    judge: QualityJudge
    given: argparse.Namespace

    def rows(self, seed: int) -> Iterator[Row]:
        """Yield every figure of one seed."""
        count, few = self.given.count, min(self.given.two_pass, self.given.count)
        swapped = self.pictures("swapped", self.work / "model", "one-pass", count, seed)
        unswapped = self.pictures("unswapped", unswapped_model(self.work), "one-pass", count, seed)
        fused = self.pictures("two-pass", self.work / "model", "exact", few, seed)
        yield from self.measured("swapped", swapped, seed)
        yield from self.measured("unswapped", unswapped, seed)
        yield from self.measured("one-pass", swapped[:few], seed)
        yield from self.measured("two-pass", fused, seed)
        for zoom in (1, 2):
            for name, rare in (("rare", True), ("uniform", False)):
                share = rarest_share(seed, self.given, zoom, rare)
                yield row(seed, name, self.given.crops, f"rarest_share_zoom{zoom}", share)

    def pictures(self, name: str, model: Path, preset: str, count: int, seed: int) -> list[SceneFiles]:
        """Generate the missing images of a cell; return all."""
        out = self.work / "ideas" / f"{name}-{seed}"
        print(f"{out}: {count} images", flush=True)
        dgkit.generate(
            out, model=str(model), preset=preset, count=count, seed=FIRST_SEED + seed, world=self.given.scenes,
            style_mix="uniform", dtype=self.given.dtype, device=self.given.device, batch=self.given.batch,
            engine="torch", workers=0,
        )  # fmt: skip
        return list_scenes(out)

    def measured(self, name: str, entries: list[SceneFiles], seed: int) -> Iterator[Row]:
        """Yield the figures of a cell, compared with paired renders: the same scenes in the same styles."""
        kept = self.work / "ideas" / f"{name}-{seed}.json"
        key = {"judge": self.judge.to_json(), "images": [digest_file(entry.image) for entry in entries]}
        found = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
        if found.get("key") != key:
            found = {"key": key, "figures": self.figures(entries)}
            atomic_write(kept, json.dumps(found, indent=2).encode())
        for metric, value in found["figures"].items():
            yield row(seed, name, len(entries), metric, value)

    def figures(self, entries: list[SceneFiles]) -> dict[str, float]:
        own = measure((entry.read() for entry in entries), len(entries), self.judge)
        height, width = entries[0].read().label.shape
        renders = render_reference("paired", entries, (height, width))
        real = measure(renders, len(renders), self.judge)
        against = compare(own, real)
        return {
            **scores(own),
            **{f"real_{metric}": value for metric, value in scores(real).items()},
            **{key: value for key, value in against.items() if isinstance(value, float)},
        }


def scores(found: Measurement) -> dict[str, float]:
    agreement = summary(found.matrix)
    style = found.to_json()["style"]
    return {
        **{key: float(str(agreement[key])) for key in ("miou", "small_miou", "pixel_accuracy")},
        "style_accuracy": style["accuracy"],
    }


def row(seed: int, cell: str, images: int, metric: str, value: float) -> Row:
    return {"seed": seed, "cell": cell, "images": images, "metric": metric, "value": round(value, 6)}


def unswapped_model(work: Path) -> Path:
    """Return ``model`` with the source UNet that its ControlNet was trained with, in place of the prior's."""
    out = work / "ideas" / "unswapped"
    if not out.exists():
        from diffusers import UNet2DConditionModel

        temporary = out.with_name("unswapped.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(work / "model", temporary, ignore=shutil.ignore_patterns("unet"))
        UNet2DConditionModel.from_pretrained(work / "finetune" / "finished").half().save_pretrained(temporary / "unet")
        temporary.rename(out)
    return out


def rarest_share(seed: int, given: argparse.Namespace, zoom: int, rare: bool) -> float:
    """Return the share of labelled pixels of the source's 6 rarest classes in the label crops of a run.

    At zoom 1 a crop is as high as its scene and half as wide. At zoom 2 it is an eighth of its scene, as 512 x 512
    pixels are of a frame of GTA5.
    """
    size = (given.size, given.size)
    index = index_world(GenerateConfig(world=given.scenes, seed=FIRST_SEED + seed), zoom * given.size, size)
    pixels = index.counts.sum(0)
    present = [k for k in np.argsort(pixels, kind="stable").tolist() if pixels[k] > 0]
    plan = JobPlan(index, CropRules(size), STYLE_MIXES["uniform"], FIRST_SEED + seed, rare)
    total = np.zeros(NUM_CLASSES, np.int64)
    for number in range(given.crops):
        total += np.bincount(make_job(plan, number).label.ravel(), minlength=256)[:NUM_CLASSES]
    return float(total[present[:RAREST]].sum() / total.sum())


def main() -> None:
    parser = study_parser(__doc__, "folder of dgkit train city")
    parser.add_argument("--judge", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--count", type=int, default=96, help="images of a one-pass cell")
    parser.add_argument("--two-pass", type=int, default=32, help="images of the two-pass cell")
    parser.add_argument("--scenes", type=int, default=96, help="source scenes that label maps are cut from, per seed")
    parser.add_argument("--crops", type=int, default=400, help="label crops for the share of rare classes")
    parser.add_argument("--size", type=int, default=256, help="side of the model's images and height of its scenes")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=8)
    given = parser.parse_args()
    study = Study(given.work, find_judge(given.judge, None, None), given)
    rows = [line for seed in range(given.seeds) for line in study.rows(seed)]
    facts = {"commit": git_commit(), "cpu": cpu_name(), "dtype": given.dtype}
    facts |= {name: versions().get(name) for name in ("torch", "diffusers", "onnxruntime", "numpy")}
    write_rows(given.results / "ideas.csv", [{**line, **facts} for line in rows])
    (given.results / "ideas.md").write_text(table(rows), encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
