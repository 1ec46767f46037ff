"""Share of time spent outside the networks, of sampling alone or of a whole run.

    python benchmarks/studies/overhead.py                        the embedded model, CPU, 4 images
    python benchmarks/studies/overhead.py --run --count 16       with jobs, PNG files and the disk, as dgkit generate
    python benchmarks/studies/overhead.py --model DIR --device cuda --dtype fp16 --batch 32

Target: less than 5 % with the embedded model. Noise, labels and prompts are fixed, so runs are comparable. With
``--run``, threads read label maps and pack and write files while the networks run; the share is what remains.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from dgkit.diffusion.loading import load_pipeline
from dgkit.diffusion.pipeline import Pipeline
from dgkit.diffusion.presets import find_preset
from dgkit.diffusion.sampler import SceneRequest, sample
from dgkit.generation.blocks import missing_blocks
from dgkit.generation.flow import InProcessPool, fill
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.scene_generator import SceneGenerator
from dgkit.generation.settings import chosen_style_mix, make_plan, resolve_paths
from dgkit.generation.writer import OutputFolder
from dgkit.progress import ignore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or hub id; default: the embedded model")
    parser.add_argument("--engine", default="torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--preset", default="exact")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--run", action="store_true", help="a whole run instead of sampling alone")
    given = parser.parse_args()
    pipeline = load_pipeline(given.model, engine=given.engine, device=given.device, dtype=given.dtype)
    with pipeline:
        for runner in pipeline.runners.values():
            runner.synchronize = True
        total, inside = run(pipeline, given) if given.run else sampling(pipeline, given)
    for name, seconds in inside.items():
        print(f"{name:14} {seconds:9.3f} s  {seconds / total:7.2%}")
    outside = total - sum(inside.values())
    print(f"{'outside':14} {outside:9.3f} s  {outside / total:7.2%}")
    print(f"{given.count} images of {pipeline.size} px in {total:.2f} s: {total / given.count:.2f} s an image")


def sampling(pipeline: Pipeline, given: argparse.Namespace) -> tuple[float, dict[str, float]]:
    """Return the seconds of sampling ``given.count`` images, and those within each network."""
    preset = find_preset(given.preset)
    scenes = [request(seed, pipeline.size) for seed in range(given.count)]
    sample(pipeline, scenes[:1], preset, batch=given.batch)  # warm up
    before = spent(pipeline)
    started = time.perf_counter()
    sample(pipeline, scenes, preset, batch=given.batch)
    total = time.perf_counter() - started
    return total, {name: seconds - before[name] for name, seconds in spent(pipeline).items()}


def run(pipeline: Pipeline, given: argparse.Namespace) -> tuple[float, dict[str, float]]:
    """Do :func:`sampling` with jobs from label maps of the city, and files in a temporary folder."""
    count = given.count + max(1, given.batch // 2)  # the first block warms up
    values = {"model": given.model, "preset": given.preset, "batch": given.batch, "count": count}
    values |= {"engine": "torch", "dtype": "fp32", "workers": 0}
    config = resolve_paths(GenerateConfig.model_validate(values))
    plan, config = make_plan(config, None, pipeline, chosen_style_mix(config), ignore)
    pool = InProcessPool(SceneGenerator(config, pipeline), lambda block, share: None)
    blocks = list(missing_blocks(config, ()))
    with tempfile.TemporaryDirectory(prefix="dgkit-overhead-") as place:
        folder = OutputFolder(Path(place, "out"))
        with folder.opened(config):
            fill(folder.add, plan, blocks[:1], pool, lambda block: None)  # warm up
            before, images = spent(pipeline), len(folder.records)
            started = time.perf_counter()
            fill(folder.add, plan, blocks[1:], pool, lambda block: None)
            total = time.perf_counter() - started
            given.count = len(folder.records) - images
    return total, {name: seconds - before[name] for name, seconds in spent(pipeline).items()}


def spent(pipeline: Pipeline) -> dict[str, float]:
    """Return the seconds within each network so far."""
    return {name: runner.timing.seconds for name, runner in pipeline.runners.items()}


def request(seed: int, size: int) -> SceneRequest:
    """Return a request with a label of 8 x 8 blocks of random classes."""
    ids = np.random.default_rng(seed).integers(0, 19, (8, 8), dtype=np.uint8)
    rows = np.arange(size) * 8 // size
    return SceneRequest(ids[np.ix_(rows, rows)], "road building sky car, in snowy weather.", seed)


if __name__ == "__main__":
    main()
