"""Speed of dgkit eval against the loops of mmsegmentation and of transformers, on the same weights and pictures.

    python benchmarks/studies/eval_speed.py WORK         20 minutes on two cores; run it again to resume

WORK receives scenes of the city in the layout and size of Cityscapes, a checkpoint that `dgkit train segmenter` trains
for a few steps (unless --checkpoint FILE.pth is given), and the compiled engines. Each variant runs in its own process,
--repeats times and in turn; a row has the median. Engines are built, and two pictures predicted, before the clock
starts. Protocol of all: pictures of 1024x512, windows of 512 with stride 256, scored at the size of the label maps.
The variants ``pipeline`` and ``vit-*`` run a frozen DINOv2-S of random weights with a linear head: transformers'
image-segmentation pipeline, whose masks are joined to label maps and counted, and dgkit eval, on whole pictures of
1024x512. Writes benchmarks/results/eval_speed.csv and prints it as a table. Targets: openvino 3.5, in bf16 5 times as
many pictures per second as mmsegmentation, the fastest of vit-* 3 times as many as the pipeline, with the same mIoU to
0.01 points (bf16: 0.05), and 1.2 times the memory of mmsegmentation's loop.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from records import RESULTS, study_parser, write_rows

from dgkit.provenance import cpu_name, git_commit, version

SCALE, CROP, STRIDE = (1024, 512), 512, 256
WARM = 2
LOOP, PIPELINE, PREPARE = "mmseg", "pipeline", "prepare"
VIT, VIT_STEPS = "vit-", 40
# Variant -> engine and number format of dgkit eval.
VARIANTS = {
    "torch": ("torch", "fp32"),
    "compile": ("compile", "fp32"),
    "ort": ("ort", "fp32"),
    "openvino": ("openvino", "fp32"),
    "torch-bf16": ("torch", "bf16"),
    "compile-bf16": ("compile", "bf16"),
    "openvino-bf16": ("openvino", "bf16"),
    "vit-torch": ("torch", "fp32"),
    "vit-openvino": ("openvino", "fp32"),
    "vit-openvino-bf16": ("openvino", "bf16"),
}
ON_CPU = "mmseg,torch,compile,ort,openvino,openvino-bf16,pipeline,vit-torch,vit-openvino,vit-openvino-bf16"
ON_GPU = "mmseg,torch,torch-bf16,compile,compile-bf16"


def main() -> None:
    parser = study_parser(__doc__, "folder for scenes, checkpoint and engines", RESULTS / "eval_speed.csv")
    parser.add_argument(
        "--checkpoint", type=Path, help="checkpoint of mmsegmentation, with its config in it or next to it"
    )
    parser.add_argument("--backbone", default="mit_b0", help="backbone of the checkpoint to train")
    parser.add_argument("--steps", type=int, default=200, help="training steps")
    parser.add_argument("--count", type=int, default=24, help="pictures")
    parser.add_argument("--height", type=int, default=1024, help="height of the pictures, which are twice as wide")
    # --ways is the former name.
    parser.add_argument("--variants", "--ways", help=f"default: {ON_CPU}, on a GPU {ON_GPU}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=2, help="windows per call of dgkit eval")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--note", default="", help="remark for each row, e.g. that the machine did other work")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--build", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.work = given.work.resolve()
    os.environ["DGKIT_CACHE"] = str(given.work / "cache")
    given.checkpoint = given.checkpoint or given.work / "segmenter" / f"iter_{given.steps}.pth"
    if given.only:
        if given.only == PIPELINE or given.only.startswith(VIT):
            given.checkpoint = given.work / "vit" / f"iter_{VIT_STEPS}.pth"
        run = {LOOP: run_mmseg, PIPELINE: run_pipeline, PREPARE: prepare}.get(given.only, run_dgkit)
        print(json.dumps(run(given)))
        return
    compare(given)


def compare(given: argparse.Namespace) -> None:
    """Prepare what is missing, measure all variants in turn, and write the table."""
    child(PREPARE)
    variants = (given.variants or (ON_GPU if given.device == "cuda" else ON_CPU)).split(",")
    for variant in variants:
        if variant not in (LOOP, PIPELINE):
            child(variant, "--build")
    measured: dict[str, list[dict[str, Any]]] = {variant: [] for variant in variants}
    for number in range(given.repeats):
        for variant in variants:
            measured[variant].append(child(variant))
            one = measured[variant][-1]
            print(
                f"{number + 1}: {variant:14} {one['images_per_second']:7.3f} images/s, mIoU {one['miou']:.2f}",
                flush=True,
            )
    rows = [summary(variant, found, measured.get(loop_of(variant)), given) for variant, found in measured.items()]
    write_rows(given.results, rows)
    print("\n".join(table(rows)))


def prepare(given: argparse.Namespace) -> dict[str, Any]:
    """Write scenes of the source and of the target, and train the checkpoint."""
    from dgkit.world.write import write_role

    cores = len(os.sched_getaffinity(0))
    size = {"height": given.height, "width": 2 * given.height, "workers": cores}
    write_role(given.work / "city", "cityscapes", given.count, 5, split="val", **size)
    write_role(given.work / "warm", "cityscapes", WARM, 6, split="val", **size)
    write_role(given.work / "source", "source", 60, 7, height=256, workers=cores)
    prepare_vit(given)
    if given.checkpoint.is_file():
        return {}
    from dgkit.training.segmenter.segmenter_recipe import SegmenterRecipe
    from dgkit.training.segmenter.segmenter_training import train_segmenter

    recipe = {
        "head": "segformer", "backbone": given.backbone, "export": False, "out": given.work / "segmenter",
        "data": {"source": {"dataset": "gta", "root": given.work / "source"}, "crop": 128, "cache": True},
        "train": {"steps": given.steps, "batch": 4, "lr": 6e-4, "warmup": 20, "checkpoint_every": given.steps},
    }  # fmt: skip
    train_segmenter(SegmenterRecipe.model_validate(recipe))
    return {}


def prepare_vit(given: argparse.Namespace) -> None:
    """Write a checkpoint of a linear head, barely trained, on DINOv2-S with random weights."""
    from transformers import Dinov2Config, Dinov2Model

    from dgkit.training.segmenter.segmenter_recipe import SegmenterRecipe
    from dgkit.training.segmenter.segmenter_training import train_segmenter

    out, folder = given.work / "vit", given.work / "dinov2-small"
    if (out / f"iter_{VIT_STEPS}.pth").is_file():
        return
    if not (folder / "config.json").is_file():
        config = Dinov2Config(
            hidden_size=384, num_hidden_layers=12, num_attention_heads=6, patch_size=16, image_size=512
        )
        Dinov2Model(config).save_pretrained(folder)
    recipe = {
        "head": "linear", "backbone": f"transformers:{folder}", "freeze": True, "export": False, "out": out,
        "data": {"source": {"dataset": "gta", "root": given.work / "source"}, "crop": 128, "workers": 0},
        "train": {"steps": VIT_STEPS, "batch": 2, "lr": 1e-3, "warmup": 0},
    }  # fmt: skip
    train_segmenter(SegmenterRecipe.model_validate(recipe))


def loop_of(variant: str) -> str:
    """Return the variant that another one is compared with."""
    return PIPELINE if variant == PIPELINE or variant.startswith(VIT) else LOOP


def child(variant: str, *options: str) -> dict[str, Any]:
    """Run this script for one variant in a process of its own; return what it printed."""
    command = [sys.executable, *sys.argv, "--only", variant, *options]
    shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(shown.splitlines()[-1])


def run_mmseg(given: argparse.Namespace) -> dict[str, Any]:
    """Time mmengine's Runner with the test loop, data set, preprocessing and metric of mmsegmentation's configs."""
    import torch

    from dgkit.training.segmenter.mm import MMConfig, Runner
    from dgkit.training.segmenter.networks import keep_from_console, known_warnings

    steps = [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "scale": SCALE, "keep_ratio": True},
        {"type": "LoadAnnotations"},
        {"type": "PackSegInputs"},
    ]

    def loader(folder: str) -> dict[str, Any]:
        prefix = {"img_path": "leftImg8bit/val", "seg_map_path": "gtFine/val"}
        root = str(given.work / folder)
        return {
            "batch_size": 1, "num_workers": len(os.sched_getaffinity(0)), "persistent_workers": True,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "dataset": {"type": "CityscapesDataset", "data_root": root, "data_prefix": prefix, "pipeline": steps},
        }  # fmt: skip

    stated = MMConfig.fromfile(str(given.checkpoint.with_name("config.py")))
    model = stated.model.to_dict()
    model["test_cfg"] = {"mode": "slide", "crop_size": (CROP, CROP), "stride": (STRIDE, STRIDE)}
    out = given.work / "mmseg"
    config = {
        "default_scope": "mmseg", "model": model, "work_dir": str(out), "load_from": str(given.checkpoint),
        "test_dataloader": loader("city"), "test_cfg": {"type": "TestLoop"},
        "test_evaluator": {"type": "IoUMetric", "iou_metrics": ["mIoU"]},
        "env_cfg": {"cudnn_benchmark": True, "mp_cfg": {"mp_start_method": "fork", "opencv_num_threads": 0}},
        "visualizer": {"type": "SegLocalVisualizer", "name": "visualizer", "vis_backends": []}, "log_level": "ERROR",
    }  # fmt: skip
    with known_warnings():
        runner = Runner.from_cfg(MMConfig(config))
    keep_from_console(runner.logger)
    if given.device == "cpu":
        runner.model = runner.model.cpu()
    runner.load_or_resume()
    loop = runner.test_loop
    runner.model.eval()
    with torch.no_grad():
        for batch in Runner.build_dataloader(loader("warm"), seed=0):
            runner.model.test_step(batch)
    runner.call_hook("before_run")  # as Runner.test does; the logger hook needs it
    started = time.perf_counter()
    scores = loop.run()
    seconds = time.perf_counter() - started
    return facts(given, seconds, scores["mIoU"], str(next(runner.model.parameters()).device))


def run_pipeline(given: argparse.Namespace) -> dict[str, Any]:
    """Time transformers' pipeline for semantic segmentation and the count of its masks."""
    import numpy as np
    import torch
    import transformers
    from transformers.modeling_outputs import SemanticSegmenterOutput

    from dgkit.data.datasets import open_dataset
    from dgkit.data.labelmap import read_label
    from dgkit.data.scores import confusion, mean_iou
    from dgkit.labels import CLASSES, IGNORE
    from dgkit.segmenters.opening import find_source

    source = find_source(given.checkpoint)

    class Wrapped(transformers.PreTrainedModel):  # type: ignore[misc]  # transformers leaves this class untyped
        config_class = transformers.PretrainedConfig

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.network = source.load()

        def forward(self, pixel_values: torch.Tensor) -> SemanticSegmenterOutput:
            return SemanticSegmenterOutput(logits=self.network(pixel_values))

    model = Wrapped(transformers.PretrainedConfig(id2label=dict(enumerate(CLASSES)))).eval()
    size = {"width": SCALE[0], "height": SCALE[1]}
    processor = transformers.SegformerImageProcessor(
        size=size, image_mean=list(source.mean), image_std=list(source.std)
    )
    run = transformers.pipeline("image-segmentation", model=model, image_processor=processor, device=given.device)

    def score(folder: str) -> np.ndarray:
        samples = open_dataset("cityscapes", given.work / folder, "val").samples
        total = np.zeros((len(CLASSES), len(CLASSES) + 1), np.int64)
        for sample, found in zip(samples, run([str(one.image) for one in samples]), strict=True):
            label = read_label(sample.label, sample.encoding)
            predicted = np.full(label.shape, IGNORE, np.uint8)
            for part in found:
                predicted[np.asarray(part["mask"]) > 0] = CLASSES.index(part["label"])
            total += confusion(label, predicted, void=True)
        return total

    score("warm")
    started = time.perf_counter()
    found = score("city")
    seconds = time.perf_counter() - started
    return facts(given, seconds, 100 * mean_iou(found, absent="zero"), str(run.device))


def run_dgkit(given: argparse.Namespace) -> dict[str, Any]:
    """Time ``score_sets``, in which ``dgkit eval`` spends its time; reports are written after it."""
    from dgkit.config import load_config
    from dgkit.data.scores import mean_iou
    from dgkit.evaluation.benchmark.eval_config import EvalConfig
    from dgkit.evaluation.benchmark.score_sets import score_sets
    from dgkit.segmenters.opening import open_segmenter

    engine, dtype = VARIANTS[given.only]

    def settings(folder: str) -> EvalConfig:
        on = (f"cityscapes={given.work / folder}",)
        sizes: dict[str, Any] = {"scale": SCALE, "crop": CROP, "stride": STRIDE}
        if given.only.startswith(VIT):
            sizes = {"protocol": "whole", "scale": SCALE}
        return load_config(EvalConfig, on=on, engine=engine, dtype=dtype, batch=given.batch, **sizes)

    out = given.work / "dgkit"
    shutil.rmtree(out, ignore_errors=True)
    with open_segmenter(given.checkpoint, engine, dtype, given.device, batch=given.batch) as segmenter:
        score_sets(segmenter, settings("warm"), out / "warm")
        if given.build:
            return {}
        started = time.perf_counter()
        found = score_sets(segmenter, settings("city"), out / "city")
        seconds = time.perf_counter() - started
        device = str(segmenter.device)
    return facts(given, seconds, 100 * mean_iou(found.total("cityscapes"), absent="zero"), device)


def facts(given: argparse.Namespace, seconds: float, miou: float, device: str) -> dict[str, Any]:
    """Return the cells of one run; peak memory excludes the processes that read pictures."""
    from dgkit.bench.memory import peak_rss

    gpu = 0.0
    if device.startswith("cuda"):
        import torch

        gpu, device = torch.cuda.max_memory_allocated() / 2**20, torch.cuda.get_device_name()
    return {
        "seconds": seconds,
        "images_per_second": given.count / seconds,
        "miou": float(miou),
        "peak_mib": peak_rss(),
        "gpu_mib": gpu,
        "device": device,
    }


def summary(
    variant: str, found: list[dict[str, Any]], loop: list[dict[str, Any]] | None, given: argparse.Namespace
) -> dict[str, Any]:
    """Return the row of one variant. ``x_mmseg`` compares medians with ``loop``; ``miou_off``: difference in points."""
    rates = [one["images_per_second"] for one in found]
    rate = statistics.median(rates)
    base = statistics.median(one["images_per_second"] for one in loop) if loop else None
    names = {LOOP: "mmsegmentation", PIPELINE: "transformers"}
    engine, dtype = VARIANTS.get(variant, (names.get(variant), "fp32"))
    packages = ("torch", "onnxruntime", "openvino", "onedl-mmsegmentation", "transformers")
    return {
        "way": variant,
        "engine": engine,
        "dtype": dtype,
        "images_per_second": round(rate, 3),
        "slowest": round(min(rates), 3),
        "fastest": round(max(rates), 3),
        "x_mmseg": round(rate / base, 2) if base else "",
        "miou": round(found[0]["miou"], 3),
        "miou_off": round(found[0]["miou"] - loop[0]["miou"], 3) if loop else "",
        "peak_mib": round(max(one["peak_mib"] for one in found)),
        "gpu_mib": round(max(one["gpu_mib"] for one in found)),
        "images": given.count,
        "size": f"{2 * given.height}x{given.height}",
        "batch": 1 if variant == loop_of(variant) else given.batch,
        "repeats": len(found),
        "network": f"SegFormer {given.backbone}" if loop_of(variant) == LOOP else "DINOv2-S, linear",
        "loop": loop_of(variant),
        "device": found[0]["device"],
        "cpu": f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores",
        "versions": " ".join(f"{name} {version(name)}" for name in packages if version(name)),
        "commit": git_commit() or "",
        "note": given.note,
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the rows as docs/results/evaluation.md shows them."""
    lines = ["| way | images/s | x loop | mIoU | peak memory, MiB |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        factor = f"{row['x_mmseg']:.2f}" if row["x_mmseg"] != "" else ""
        lines.append(
            f"| {row['way']} | {row['images_per_second']:.2f} | {factor} | {row['miou']:.2f} | {row['peak_mib']} |"
        )
    return lines


if __name__ == "__main__":
    main()
