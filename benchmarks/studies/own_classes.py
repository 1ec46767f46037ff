"""Own classes from end to end: a ControlNet and a segmenter of the 11 classes of CamVid.

    python benchmarks/studies/own_classes.py WORK CAMVID     run it again to resume

CAMVID holds train/, trainannot/, val/ and valannot/. A ControlNet of 12 condition channels is trained on the label maps
and photographs of the training split, swapped onto the embedded prior and used to generate scenes; one segmenter is
trained on the photographs alone and one on both, and both are scored on the validation split. Writes
benchmarks/results/own_classes.csv.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from records import RESULTS, study_parser, write_rows

from dgkit import generate, read_label
from dgkit.data.crops import CropBox, crop
from dgkit.data.datasets import open_dataset
from dgkit.data.generated import SceneFiles, list_scenes
from dgkit.data.index import read_scaled
from dgkit.diffusion.hub import embedded_model
from dgkit.diffusion.loading import open_model
from dgkit.diffusion.style_swap import swap
from dgkit.evaluation.benchmark.eval_config import EvalConfig
from dgkit.evaluation.benchmark.evaluate import evaluate
from dgkit.provenance import cpu_name, git_commit
from dgkit.segmenters.opening import open_segmenter
from dgkit.taxonomies import CAMVID11
from dgkit.training.diffusion.commands import train_controlnet
from dgkit.training.diffusion.diffusion_recipes import ControlNetTraining
from dgkit.training.segmenter.segmenter_recipe import SegmenterRecipe
from dgkit.training.segmenter.segmenter_training import train_segmenter

TAXONOMY = "camvid11"
Figures = list[tuple[str, float]]


def main() -> None:
    parser = study_parser(__doc__, "folder for models and scenes", RESULTS / "own_classes.csv")
    parser.add_argument("camvid", type=Path, help="folder of CamVid")
    parser.add_argument("--steps", type=int, default=300, help="steps of the ControlNet")
    parser.add_argument("--count", type=int, default=64, help="generated scenes")
    parser.add_argument("--segmenter-steps", type=int, default=600, help="steps of each segmenter")
    given = parser.parse_args()
    model = controlnet(given)
    figures = [("condition channels", float(open_model(model).info.taxonomy.channels)), *scenes(given, model)]
    for name, generated in (("photographs", ()), ("photographs and scenes", (given.work / "scenes",))):
        figures += scores(given, name, generated)
    settings = f"{given.steps} steps, {given.count} scenes, {given.segmenter_steps} steps of the segmenters"
    facts = {"settings": settings, "commit": git_commit(), "cpu": cpu_name()}
    write_rows(given.results, [{"figure": name, "value": f"{value:.4f}", **facts} for name, value in figures])
    for name, value in figures:
        print(f"{value:8.4f}  {name}")


def show(stage: str, done: float, total: float, note: str = "") -> None:
    """Print every tenth part of a stage."""
    if total and done == int(done) and int(10 * done / total) != int(10 * (done - 1) / total):
        print(f"{stage} {done:g}/{total:g} {note}", flush=True)


def controlnet(given: argparse.Namespace) -> Path:
    """Train the ControlNet on the embedded model's UNet and return the model folder with it."""
    recipe = ControlNetTraining.model_validate(
        {
            "model": str(embedded_model()),
            "out": given.work / "controlnet",
            "data": {
                "rows": [{"dataset": "camvid", "root": str(given.camvid), "rescale": (0.75, 1.0)}],
                "taxonomy": TAXONOMY,
                "empty_prompt": 0.1,
            },
            "train": {
                "steps": given.steps,
                "batch": 4,
                "lr": 3e-4,
                "warmup": min(20, given.steps - 1),
                "checkpoint_every": 50,
                "validate_every": max(1, given.steps),
            },
            "validation": {"samples": 0},
        }
    )
    train_controlnet(recipe, show)
    return swap(embedded_model(), given.work / "controlnet", given.work / "model").out


def scenes(given: argparse.Namespace, model: Path) -> Figures:
    """Generate scenes from the training label maps; return how many labels are exactly crops of these maps."""
    out = given.work / "scenes"
    generate(out, dataset=f"camvid={given.camvid}", model=str(model), count=given.count, seed=1, progress=show)
    found = list_scenes(out)
    exact = sum(is_exact(scene, label) for scene, label in zip(found, sources(given.camvid, found), strict=True))
    return [("scenes", float(len(found))), ("scenes whose label is a crop of its source, bit for bit", float(exact))]


def sources(camvid: Path, found: list[SceneFiles]) -> Iterator[np.ndarray]:
    """Yield the label map that each scene was made from, at the scale of the run."""
    import json

    manifest = (found[0].image.parents[1] / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    scales = {line["id"]: line["label_scale"] for line in map(json.loads, manifest)}
    maps = {sample.id: sample for sample in open_dataset("camvid", camvid, taxonomy=CAMVID11).samples}
    for scene in found:
        yield read_scaled(maps[scene.source], scales[scene.id])


def is_exact(scene: SceneFiles, source: np.ndarray) -> bool:
    """Return whether the label of a scene is a crop of ``source``, uint8 [H,W]."""
    assert scene.crop is not None
    expected = crop(source, CropBox(*scene.crop))
    return bool(np.array_equal(read_label(scene.label, taxonomy=CAMVID11), expected))


def scores(given: argparse.Namespace, name: str, generated: tuple[Path, ...]) -> Figures:
    """Train a segmenter and return its scores on the validation split, in percent."""
    out = given.work / f"segmenter {name}"
    steps = given.segmenter_steps
    recipe = SegmenterRecipe.model_validate(
        {
            "head": "unet",
            "backbone": "unet",
            "channels": 16,
            "out": out,
            "data": {
                "source": {"dataset": "camvid", "root": str(given.camvid), "split": "train"},
                "taxonomy": TAXONOMY,
                "generated": [str(folder) for folder in generated],
                "crop": 256,
                "workers": 0,
                "cache": True,
            },
            "train": {"steps": steps, "batch": 4, "lr": 1e-3, "head_lr": 1.0, "warmup": min(50, steps - 1),
                      "checkpoint_every": max(1, steps // 4)},
        }
    )  # fmt: skip
    result: Any = train_segmenter(recipe, show)
    config = EvalConfig(on=(f"camvid={given.camvid}",), protocol="whole", scale=(480, 360), worst=0)
    found = evaluate(open_segmenter(result["onnx"]), config, given.work / f"eval {name}", show)["sets"]["camvid"]
    by_class = [(f"{name}: IoU of {one}", 100 * (value or 0.0)) for one, value in found["iou"].items()]
    whole = [("mIoU", found["miou"]), ("pixel accuracy", found["pixel_accuracy"]), ("images", found["images"] / 100)]
    return [*((f"{name}: {figure}", 100 * value) for figure, value in whole), *by_class]


if __name__ == "__main__":
    main()
