"""Effect of redrawing and of balancing, with the embedded model and the city.

    dgkit train judge JUDGE
    python benchmarks/studies/good_scenes.py WORK --judge JUDGE/segmenter.onnx     run it again to resume

Writes benchmarks/results/good_scenes.csv: label agreement of the first and of the kept images, differing bits between
hashes of different scenes, and classes and styles of jobs with and without balancing. Jobs are counted without images.
"""

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import numpy as np
from records import RESULTS, study_parser, write_rows

from dgkit import GenerateConfig, generate, load_pipeline
from dgkit.generation.jobs import Job, make_job
from dgkit.generation.settings import chosen_style_mix, make_plan
from dgkit.labels import NUM_CLASSES
from dgkit.progress import ignore
from dgkit.prompts import STYLES
from dgkit.provenance import cpu_name, git_commit

BALANCES = {"neither": {}, "classes": {"balance_classes": True}, "styles": {"balance_styles": True}}
CROPS = {"half a scene": (256, 256), "an eighth": (128, 128)}
Figures = Iterator[tuple[str, float]]


def main() -> None:
    parser = study_parser(__doc__, "folder for the images", RESULTS / "good_scenes.csv")
    parser.add_argument("--judge", type=Path, required=True, help="segmenter that scores the images")
    parser.add_argument("--count", type=int, default=48, help="images")
    parser.add_argument("--jobs", type=int, default=400, help="jobs whose classes and styles are counted")
    parser.add_argument("--min-agreement", type=float, default=0.8)
    parser.add_argument("--redraws", type=int, default=3)
    given = parser.parse_args()
    config = GenerateConfig(
        count=given.count,
        preset="one-pass",
        engine="torch",
        dtype="fp32",
        batch=8,
        workers=0,
        style_mix="uniform",
        judge=given.judge,
        min_agreement=given.min_agreement,
        redraws=given.redraws,
    )
    generate(given.work, config)
    figures = [*attempts(given.work), *hashes(given.work)]
    for (size, pixels), (name, changes) in itertools.product(CROPS.items(), BALANCES.items()):
        counted = jobs(config.model_copy(update={**changes, "size": pixels}), given.jobs)
        figures += [(f"{figure}, crops of {size}, balance of {name}", value) for figure, value in balance(counted)]
    settings = f"{given.count} images, {given.min_agreement}, {given.redraws}, {given.jobs} jobs"
    facts = {"settings": settings, "commit": git_commit(), "cpu": cpu_name()}
    write_rows(given.results, [{"figure": name, "value": f"{value:.4f}", **facts} for name, value in figures])
    for name, value in figures:
        print(f"{value:8.4f}  {name}")


def attempts(out: Path) -> Figures:
    """Yield label agreement and acceptance of first and kept images, from a manifest."""
    records = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    first = [record["attempts"][0]["agreement"] for record in records]
    least = json.loads((out / "labels_filtered/filter.json").read_text())["settings"]["min_agreement"]
    yield "agreement of first drawings, mean", fmean(first)
    yield "agreement of kept drawings, mean", fmean(record["agreement"] for record in records)
    yield "first drawings accepted", fmean(value >= least for value in first)
    yield "scenes accepted", fmean(record["accepted"] for record in records)
    yield "drawings a scene", fmean(len(record["attempts"]) for record in records)


def hashes(out: Path) -> Figures:
    """Yield the number of differing bits between the perceptual hashes of two scenes, over all pairs."""
    lines = (out / "labels_filtered/.measured.jsonl").read_text().splitlines()[1:]
    codes = [int(json.loads(line)["hash"], 16) for line in lines]
    bits = [(a ^ b).bit_count() for a, b in itertools.combinations(codes, 2)]
    yield "bits between scenes, least", float(min(bits))
    yield "bits between scenes, first percentile", float(np.percentile(bits, 1))


def jobs(config: GenerateConfig, count: int) -> list[Job]:
    """Return the first jobs of a run."""
    plan, _ = make_plan(config, None, load_pipeline(), chosen_style_mix(config), ignore)
    return [make_job(plan, number) for number in range(count)]


def balance(counted: list[Job]) -> Figures:
    """Yield shares of the rare classes, and how far the styles of a class are from equal shares."""
    pixels = sum(np.bincount(job.label.ravel(), minlength=256)[:NUM_CLASSES] for job in counted)
    found = np.asarray(pixels)
    shares = np.sort(found[found > 0] / found.sum())
    yield "pixel share of the rarest class", float(shares[0])
    yield "pixel share of the six rarest classes", float(shares[:6].sum())
    styles: dict[str | None, Counter[str]] = defaultdict(Counter)
    for job in counted:
        styles[job.class_name][job.style] += 1
    often = [found for found in styles.values() if found.total() >= 5]
    away = [abs(found[style] / found.total() - 1 / len(STYLES)) for found in often for style in STYLES]
    yield "style share of a class away from equal, mean", fmean(away)


if __name__ == "__main__":
    main()
