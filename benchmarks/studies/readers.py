"""Models read by several judges: label agreement, styles and distances against paired renders, on the same label maps.

    python benchmarks/studies/readers.py WORK --model new=DIR --reader city=JUDGE --reader camvid=READER

JUDGE and READER are folders of `dgkit train judge`, the second with `--real camvid=DIR`: a network that has seen
photographs only. The embedded model is measured too, as `shipped`. Labels, prompts and seeds are the same for all
models: crops of city scenes that neither the models nor the judges were trained on, all styles equally often. The
images of each model, and the renders, are kept in WORK: run the command again to resume. Writes readers.csv to
--results.

Figures of a reader of other classes are over its classes. `r_*` are divided by those of the paired renders. `frechet`
and `kernel` are distances in the reader's own features, `*_imagenet` in those of EfficientNet-Lite0 with ImageNet
weights.
"""

import argparse
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from presets import Scenes, draw_scenes
from records import Row, study_parser, write_rows

from dgkit.data.generated import LabelledImage
from dgkit.diffusion.loading import load_pipeline
from dgkit.diffusion.presets import find_preset
from dgkit.diffusion.sampler import sample
from dgkit.evaluation.quality.features import ImageFeatures
from dgkit.evaluation.quality.measures import Measurement, QualityJudge, compare, find_judge, measure
from dgkit.files import atomic_path
from dgkit.provenance import cpu_name, git_commit
from dgkit.taxonomies import CITYSCAPES19

SHIPPED = "shipped"
CLASSES_SHOWN = {"vegetation": "tree", "car": "car", "person": "pedestrian", "building": "building"}
STEP = 8  # images that are drawn together


def draw_images(path: Path, model: str | None, scenes: Scenes, preset: str) -> tuple[np.ndarray, Row]:
    """Return the images of a model, uint8 [N,S,S,3], from the file ``path`` if it exists, and what they cost."""
    if not path.exists():
        with load_pipeline(model, engine="torch", dtype="bf16") as pipeline:
            started = time.perf_counter()
            results = sample(pipeline, scenes.requests(), find_preset(preset), batch=STEP)
            facts = {"digest": pipeline.identity()["digest"], "seconds": time.perf_counter() - started}
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, images=np.stack([result.image for result in results]), **facts)
    with np.load(path) as file:
        return file["images"], {"digest": str(file["digest"])[:16], "seconds": round(float(file["seconds"]), 1)}


def read(images: Iterable[LabelledImage], total: int, judge: QualityJudge) -> Measurement:
    """Judge images whose labels are those of Cityscapes, as the classes of the judge."""
    table = judge.segmenter.taxonomy.table_from(CITYSCAPES19).astype(np.uint8)
    return measure((replace(image, label=table[image.label]) for image in images), total, judge)


def figures(found: Measurement, real: Measurement) -> Row:
    """Return the figures of one reader for one model, shares 0..1."""
    mine, theirs = (found.to_json()["agreement"], real.to_json()["agreement"])
    row: Row = {"miou": mine["miou"], "r_miou": compare(found, real)["relative_miou"]}
    for key in ("small_miou", "pixel_accuracy"):
        row |= {key: mine[key], f"r_{key}": ratio(mine[key], theirs[key])}
    for name, other in CLASSES_SHOWN.items():
        key = name if name in found.taxonomy.names else other
        row |= {name: mine["iou"][key], f"r_{name}": ratio(mine["iou"][key], theirs["iou"][key])}
    style = found.to_json()["style"]
    distances = compare(found, real)
    return row | {
        "style_accuracy": style and style["accuracy"],
        "frechet": distances["frechet_distance"],
        "kernel": distances["kernel_distance"],
    }


def ratio(mine: float | None, theirs: float | None) -> float | None:
    return mine / theirs if mine is not None and theirs else None


def named(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR")
    return name, value


def imagenet_distances(space: ImageFeatures, images: np.ndarray, renders: np.ndarray) -> Row:
    found, real = (Measurement(features=[space(image) for image in these]) for these in (images, renders))
    distances = compare(found, real)
    return {"frechet_imagenet": distances["frechet_distance"], "kernel_imagenet": distances["kernel_distance"]}


def main() -> None:
    parser = study_parser(__doc__, "working folder; the same one resumes the study")
    parser.add_argument("--model", type=named, action="append", default=[], help="NAME=DIR of a model; repeatable")
    parser.add_argument("--reader", type=named, action="append", required=True, help="NAME=DIR of a judge; repeatable")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--count", type=int, default=96, help="images")
    parser.add_argument("--seed", type=int, default=8100, help="seed of scenes, crops, prompts and noise")
    given = parser.parse_args()
    given.scenes, given.workers = given.count, 1
    given.work.mkdir(parents=True, exist_ok=True)
    with load_pipeline(None, engine="torch", dtype="bf16") as pipeline:
        size, height = pipeline.size, pipeline.defaults.label_height or pipeline.size
    key = f"{given.seed}-{given.count}"
    scenes = draw_scenes(given.work / f"scenes-{key}.npz", given, size, height)
    kept = given.work / f"renders-{key}.npy"
    if not kept.exists():
        np.save(kept, np.stack([one.image for one in scenes.paired_renders(height)]))
    renders = np.load(kept)
    readers = {name: find_judge(Path(folder), None, None) for name, folder in given.reader}
    real = {name: read(scenes.pictures(list(renders)), len(renders), judge) for name, judge in readers.items()}
    space, rows = ImageFeatures(), []
    for name, folder in [(SHIPPED, None), *given.model]:
        images, facts = draw_images(given.work / f"{name}-{key}.npz", folder, scenes, given.preset)
        facts |= imagenet_distances(space, images, renders)
        Image.fromarray(np.concatenate([*images[:6]], axis=1)).save(given.work / f"{name}.png")
        for reader, judge in readers.items():
            found = read(scenes.pictures(list(images)), len(images), judge)
            rows.append(
                {"model": name, "reader": reader, "images": len(images), **figures(found, real[reader]), **facts}
            )
            print(name, reader, {k: round(v, 3) for k, v in rows[-1].items() if isinstance(v, float)}, flush=True)
    machine = {"preset": given.preset, "seed": given.seed, "device": cpu_name(), "cores": os.cpu_count()}
    write_rows(given.results / "readers.csv", [{**row, **machine, "commit": git_commit()} for row in rows])


if __name__ == "__main__":
    main()
