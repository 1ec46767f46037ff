"""How far the city's target looks lie from its source: a segmenter trained on `source` alone, scored on all roles.

    python benchmarks/studies/domain_gap.py WORK                 6 minutes on two cores; the same command again continues

Appends one row per role to benchmarks/results/domain_gap.csv. Wanted: the mean over the target roles lies at least 15
mIoU points below unseen scenes of the source. The segmenter is the judge's, trained without disturbances of colour and
sharpness, which would narrow the gap.
"""

import argparse
import csv
import statistics
from pathlib import Path
from typing import Any

from dgkit.provenance import cpu_name, git_commit, version
from dgkit.training.judge.judge_recipe import JudgeRecipe, JudgeScenes, SegmenterStage
from dgkit.training.judge.judge_training import JudgeTraining
from dgkit.world import ROLES

RESULTS = Path(__file__).resolve().parents[1] / "results" / "domain_gap.csv"
WANTED = 0.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for scenes and checkpoints")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--scenes", type=int, default=600)
    parser.add_argument("--unseen", type=int, default=60, help="scenes per role that the scores are of")
    parser.add_argument("--seed", type=int, default=700)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    recipe = JudgeRecipe(
        seed=given.seed,
        roles=("source",),
        unseen=given.unseen,
        workers=given.workers,
        source=JudgeScenes(zoom1=given.scenes, zoom2=0),
        segmenter=SegmenterStage(steps=given.steps, disturb=0.0),
    )
    scores: Any = JudgeTraining(given.work, recipe, show).run()["segmenter"]
    targets = [role for role in ROLES if role not in ("source", "prior")]
    rows = [
        {"role": role, **{key: scores[role][key] for key in ("miou", "small_miou", "pixel_accuracy")}}
        for role in scores
    ]
    append(given.results, rows, recipe)
    for row in rows:
        drop = scores["source"]["miou"] - row["miou"]
        print(f"{row['role']:12} mIoU {row['miou']:6.1%}   {drop:+7.1%} lost   small classes {row['small_miou']:6.1%}")
    if targets:
        gap = scores["source"]["miou"] - statistics.fmean(scores[role]["miou"] for role in targets)
        print(f"mean loss on {len(targets)} target roles: {gap:.1%} (wanted: {WANTED:.0%} or more)")


def show(stage: str, done: float, total: float, note: str = "") -> None:
    if done % 100 == 0 or done == total:
        print(f"{stage} {done}/{total} {note}", flush=True)


def append(path: Path, rows: list[dict[str, Any]], recipe: JudgeRecipe) -> None:
    """Add ``rows`` to a CSV file, each with what it was measured with."""
    facts = {
        "steps": recipe.segmenter.steps,
        "scenes": recipe.source.zoom1,
        "unseen": recipe.unseen,
        "seed": recipe.seed,
        "commit": git_commit(),
        "torch": version("torch"),
        "opencv": version("opencv-python-headless") or version("opencv-python"),
        "cpu": cpu_name(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], *facts])
        if new:
            writer.writeheader()
        writer.writerows({**row, **facts} for row in rows)


if __name__ == "__main__":
    main()
