"""Share of the sampling time that is spent outside the networks.

    python benchmarks/overhead.py                        the embedded model, CPU, 4 images
    python benchmarks/overhead.py --model DIR --device cuda --dtype fp16 --batch 32

Bound to hold: under 5 % with the embedded model. Noise, labels and prompts are fixed, so runs compare.
"""

import argparse
import time

import numpy as np

from dgkit.diffusion.loading import load_pipeline
from dgkit.diffusion.presets import find_preset
from dgkit.diffusion.sampler import SceneRequest, sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or hub id; default: the embedded model")
    parser.add_argument("--engine", default="torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--preset", default="exact")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--count", type=int, default=4)
    given = parser.parse_args()
    pipeline = load_pipeline(given.model, engine=given.engine, device=given.device, dtype=given.dtype)
    preset = find_preset(given.preset)
    with pipeline:
        for runner in pipeline.runners.values():
            runner.synchronize = True
        scenes = [request(seed, pipeline.size) for seed in range(given.count)]
        sample(pipeline, scenes[:1], preset, batch=given.batch)  # warm up
        before = {name: runner.timing.seconds for name, runner in pipeline.runners.items()}
        started = time.perf_counter()
        sample(pipeline, scenes, preset, batch=given.batch)
        total = time.perf_counter() - started
        inside = {name: runner.timing.seconds - before[name] for name, runner in pipeline.runners.items()}
    for name, seconds in inside.items():
        print(f"{name:14} {seconds:9.3f} s  {seconds / total:7.2%}")
    outside = total - sum(inside.values())
    print(f"{'outside':14} {outside:9.3f} s  {outside / total:7.2%}")
    print(f"{given.count} images of {pipeline.size} px in {total:.2f} s: {total / given.count:.2f} s an image")


def request(seed: int, size: int) -> SceneRequest:
    """A label of 8 x 8 blocks of random classes."""
    ids = np.random.default_rng(seed).integers(0, 19, (8, 8), dtype=np.uint8)
    rows = np.arange(size) * 8 // size
    return SceneRequest(ids[np.ix_(rows, rows)], "road building sky car, in snowy weather.", seed)


if __name__ == "__main__":
    main()
