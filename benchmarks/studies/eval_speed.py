"""mmsegmentation's own test loop against dgkit eval: the same checkpoint and pictures, side by side in one run.

    python benchmarks/studies/eval_speed.py WORK                 20 minutes on two cores; the same command again continues

WORK gets scenes of the city in the layout and size of Cityscapes, a checkpoint that `dgkit train segmenter` makes of a
few steps (or --checkpoint FILE.pth names one), and the compiled engines. Each way is a process of its own, started
--repeats times in turn; the row is that of the median. Engines are built, and two pictures predicted, before the clock
starts. Protocol of both: pictures in 1024x512, windows of 512 with stride 256, scored at the size of the label maps.
Writes benchmarks/results/eval_speed.csv and prints it as a table. Wanted: 3 times the pictures a second at the same
mIoU to 0.01 points.
"""

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from dgkit.provenance import cpu_name, git_commit, version

RESULTS = Path(__file__).resolve().parents[1] / "results" / "eval_speed.csv"
SCALE, CROP, STRIDE = (1024, 512), 512, 256
WARM = 2
LOOP, PREPARE = "mmseg", "prepare"
# Name of a way: engine and number format of dgkit eval.
WAYS = {
    "torch": ("torch", "fp32"),
    "compile": ("compile", "fp32"),
    "ort": ("ort", "fp32"),
    "openvino": ("openvino", "fp32"),
    "torch-bf16": ("torch", "bf16"),
    "compile-bf16": ("compile", "bf16"),
    "openvino-bf16": ("openvino", "bf16"),
}
ON_CPU = "mmseg,torch,compile,ort,openvino,openvino-bf16"
ON_GPU = "mmseg,torch,torch-bf16,compile,compile-bf16"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for scenes, checkpoint, engines and what was measured")
    parser.add_argument("--checkpoint", type=Path, help="of mmsegmentation, with its config in or beside it")
    parser.add_argument("--backbone", default="mit_b0", help="of the checkpoint that is made without --checkpoint")
    parser.add_argument("--steps", type=int, default=200, help="of its training")
    parser.add_argument("--count", type=int, default=24, help="pictures")
    parser.add_argument("--height", type=int, default=1024, help="of the pictures, which are twice as wide")
    parser.add_argument("--ways", help=f"by default {ON_CPU}, or {ON_GPU} on a GPU")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4, help="windows of one call of dgkit eval")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--note", default="", help="beside each row, e.g. that the machine did other work")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--build", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.work = given.work.resolve()
    os.environ["DGKIT_CACHE"] = str(given.work / "cache")
    given.checkpoint = given.checkpoint or given.work / "segmenter" / f"iter_{given.steps}.pth"
    if given.only:
        work = {LOOP: loop_of_mmseg, PREPARE: prepare}.get(given.only, loop_of_dgkit)
        print(json.dumps(work(given)))
        return
    compare(given)


def compare(given: argparse.Namespace) -> None:
    """Prepare what is missing, measure all ways in turn, write the table."""
    child(PREPARE)
    ways = (given.ways or (ON_GPU if given.device == "cuda" else ON_CPU)).split(",")
    for way in ways:
        if way != LOOP:
            child(way, "--build")
    measured: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for number in range(given.repeats):
        for way in ways:
            measured[way].append(child(way))
            one = measured[way][-1]
            print(
                f"{number + 1}: {way:14} {one['images_per_second']:7.3f} images/s, mIoU {one['miou']:.2f}", flush=True
            )
    rows = [summary(way, found, measured.get(LOOP), given) for way, found in measured.items()]
    given.results.parent.mkdir(parents=True, exist_ok=True)
    with open(given.results, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print("\n".join(table(rows)))


def prepare(given: argparse.Namespace) -> dict[str, Any]:
    """Scenes of the source and of the target, and the checkpoint."""
    from dgkit.world.write import write_role

    cores = len(os.sched_getaffinity(0))
    size = {"height": given.height, "width": 2 * given.height, "workers": cores}
    write_role(given.work / "city", "cityscapes", given.count, 5, split="val", **size)
    write_role(given.work / "warm", "cityscapes", WARM, 6, split="val", **size)
    if given.checkpoint.is_file():
        return {}
    write_role(given.work / "source", "source", 60, 7, height=256, workers=cores)
    from dgkit.training.segmenter.segmenter_recipe import SegmenterRecipe
    from dgkit.training.segmenter.segmenter_training import train_segmenter

    recipe = {
        "head": "segformer", "backbone": given.backbone, "export": False, "out": given.work / "segmenter",
        "data": {"source": {"dataset": "gta", "root": given.work / "source"}, "crop": 128, "cache": True},
        "train": {"steps": given.steps, "batch": 4, "lr": 6e-4, "warmup": 20, "checkpoint_every": given.steps},
    }  # fmt: skip
    train_segmenter(SegmenterRecipe.model_validate(recipe))
    return {}


def child(way: str, *options: str) -> dict[str, Any]:
    """What this program finds out about one way in a process of its own."""
    command = [sys.executable, *sys.argv, "--only", way, *options]
    shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(shown.splitlines()[-1])


def loop_of_mmseg(given: argparse.Namespace) -> dict[str, Any]:
    """mmengine's Runner with the test loop, data set, preprocessing and metric of mmsegmentation's own configs."""
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
    runner.call_hook("before_run")  # as Runner.test does; the hook that logs needs it
    started = time.perf_counter()
    scores = loop.run()
    seconds = time.perf_counter() - started
    return facts(given, seconds, scores["mIoU"], str(next(runner.model.parameters()).device))


def loop_of_dgkit(given: argparse.Namespace) -> dict[str, Any]:
    """``score_sets``, which is what ``dgkit eval`` spends its time in; reports are written after it."""
    from dgkit.config import load_config
    from dgkit.data.scores import mean_iou
    from dgkit.evaluation.benchmark.eval_config import EvalConfig
    from dgkit.evaluation.benchmark.score_sets import score_sets
    from dgkit.segmenters.opening import open_segmenter

    engine, dtype = WAYS[given.only]

    def settings(folder: str) -> EvalConfig:
        on = (f"cityscapes={given.work / folder}",)
        sizes = {"scale": SCALE, "crop": CROP, "stride": STRIDE}
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
    """Peak memory is that of the process without those that read pictures for it."""
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
    way: str, found: list[dict[str, Any]], loop: list[dict[str, Any]] | None, given: argparse.Namespace
) -> dict[str, Any]:
    """The row of one way. ``x_mmseg`` compares medians; ``miou_off`` is against the loop's, in points."""
    rates = [one["images_per_second"] for one in found]
    rate = statistics.median(rates)
    base = statistics.median(one["images_per_second"] for one in loop) if loop else None
    engine, dtype = WAYS.get(way, ("mmsegmentation", "fp32"))
    packages = ("torch", "onnxruntime", "openvino", "onedl-mmsegmentation")
    return {
        "way": way,
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
        "batch": 1 if way == LOOP else given.batch,
        "repeats": len(found),
        "network": f"SegFormer {given.backbone}",
        "device": found[0]["device"],
        "cpu": f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores",
        "versions": " ".join(f"{name} {version(name)}" for name in packages if version(name)),
        "commit": git_commit() or "",
        "note": given.note,
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as docs/eval.md shows them."""
    lines = ["| way | images/s | x mmseg | mIoU | peak memory, MiB |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        factor = f"{row['x_mmseg']:.2f}" if row["x_mmseg"] != "" else ""
        lines.append(
            f"| {row['way']} | {row['images_per_second']:.2f} | {factor} | {row['miou']:.2f} | {row['peak_mib']} |"
        )
    return lines


if __name__ == "__main__":
    main()
