"""Domain gap of the procedural city: mIoU of a segmenter trained on `source` alone, on the scenes of all roles.

    python benchmarks/studies/domain_gap.py WORK         6 minutes on two cores; run it again to resume

Appends one row per role to benchmarks/results/domain_gap.csv. Target: the mean over the target roles is at least 15
points of mIoU below that of unseen source scenes. The segmenter is the judge's, trained without augmentation of colour
and sharpness, which would narrow the gap.
"""

import statistics
from typing import Any

from records import RESULTS, read_rows, study_parser, write_rows

from dgkit.provenance import cpu_name, git_commit, version
from dgkit.training.data.rendered_scenes import SceneCounts
from dgkit.training.judge.judge_recipe import JudgeRecipe, SegmenterStage
from dgkit.training.judge.judge_training import JudgeTraining
from dgkit.world import ROLES

TARGET_GAP = 0.15


def main() -> None:
    parser = study_parser(__doc__, "folder for scenes and checkpoints", RESULTS / "domain_gap.csv")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--scenes", type=int, default=600)
    parser.add_argument("--unseen", type=int, default=60, help="scenes per role to score")
    parser.add_argument("--seed", type=int, default=700)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    recipe = JudgeRecipe(
        seed=given.seed,
        roles=("source",),
        unseen=given.unseen,
        workers=given.workers,
        source=SceneCounts(zoom1=given.scenes, zoom2=0),
        segmenter=SegmenterStage(steps=given.steps, disturb=0.0),
    )
    scores: Any = JudgeTraining(given.work, recipe, show).run()["segmenter"]
    targets = [role for role in ROLES if role not in ("source", "prior")]
    rows = [
        {"role": role, **{key: scores[role][key] for key in ("miou", "small_miou", "pixel_accuracy")}}
        for role in scores
    ]
    write_rows(given.results, [*read_rows(given.results), *({**row, **settings(recipe)} for row in rows)])
    for row in rows:
        drop = scores["source"]["miou"] - row["miou"]
        print(f"{row['role']:12} mIoU {row['miou']:6.1%}   {drop:+7.1%} lost   small classes {row['small_miou']:6.1%}")
    if targets:
        gap = scores["source"]["miou"] - statistics.fmean(scores[role]["miou"] for role in targets)
        print(f"mean gap of {len(targets)} target roles: {gap:.1%} (target: {TARGET_GAP:.0%} or more)")


def show(stage: str, done: float, total: float, note: str = "") -> None:
    if done % 100 == 0 or done == total:
        print(f"{stage} {done}/{total} {note}", flush=True)


def settings(recipe: JudgeRecipe) -> dict[str, Any]:
    """Return what the scores were measured with."""
    return {
        "steps": recipe.segmenter.steps,
        "scenes": recipe.source.zoom1,
        "unseen": recipe.unseen,
        "seed": recipe.seed,
        "commit": git_commit(),
        "torch": version("torch"),
        "opencv": version("opencv-python-headless") or version("opencv-python"),
        "cpu": cpu_name(),
    }


if __name__ == "__main__":
    main()
