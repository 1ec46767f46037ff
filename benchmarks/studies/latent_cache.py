"""Time saved by cached latents: training steps of the ControlNet from pixels and from latents, in turn in one run.

    python benchmarks/studies/latent_cache.py                          the embedded model, CPU, batch 4
    python benchmarks/studies/latent_cache.py --model DIR --device cuda --precision bf16 --batch 8

Prints median seconds per step of wall time and of this process's CPU time, and the part of the latter that loading
the samples takes.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from torch.utils.data import default_collate

import dgkit
from dgkit.training.data.data_rows import CITY, DataRow, FeedConfig, build_feed
from dgkit.training.data.feed import Feed
from dgkit.training.data.latents import with_cached_latents
from dgkit.training.diffusion.controlnet import ControlNetTask, build_controlnet, condition_widths
from dgkit.training.diffusion.diffusion_recipes import Objective
from dgkit.training.diffusion.noising import Noising
from dgkit.training.diffusion.starting_model import StartingModel, find_training_model

SCENES, SEED = 16, 0
EMBEDDED = Path(dgkit.__file__).parent / "models" / "city"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(EMBEDDED), help="folder, hub id or random:sd15")
    parser.add_argument("--size", type=int, default=256, help="side of the crops [pixels]")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12)
    given = parser.parse_args()
    model = find_training_model(given.model, SEED)
    steps = []
    with tempfile.TemporaryDirectory() as cache:
        pixels = build_feed(
            FeedConfig(rows=(DataRow(dataset=CITY, count=SCENES, height=given.size),)), given.size, SEED, Path(cache)
        )
        cached = with_cached_latents(pixels, model.vae().to(given.device), Path(cache))
        steps = [Step(model, feed, given) for feed in (pixels, cached)]
        for number in range(given.steps + 2):
            for step in steps:
                step(number, counted=number >= 2)
    for name, step in zip(("pixels", "latents"), steps, strict=True):
        wall, cpu, loading = (median(column) for column in zip(*step.seconds, strict=True))
        print(f"{name:8} {wall:8.4f} s/step, {cpu:8.4f} s of CPU time, {loading:8.4f} s of it loading samples")
    ratios = [median(s[i] for s in steps[0].seconds) / median(s[i] for s in steps[1].seconds) for i in (0, 1)]
    print(f"latents are {ratios[0]:.2f} times as fast in wall time, {ratios[1]:.2f} times in CPU time")


class Step:
    """Runs training steps and records the time of each."""

    def __init__(self, model: StartingModel, feed: Feed, given: argparse.Namespace) -> None:
        unet = model.unet()
        factor = 2 ** (len(model.vae().config.block_out_channels) - 1)
        controlnet = build_controlnet(unet, condition_widths(factor))
        noising = Noising(model, feed, Objective(), seed=SEED, precision=given.precision, labels=True)
        self.task = ControlNetTask(controlnet, unet, noising)
        self.task.module.to(given.device)
        self.task.place(torch.device(given.device))
        self.optimizer = torch.optim.AdamW(self.task.module.parameters(), lr=1e-5, fused=True)
        self.batch, self.device, self.dtype = given.batch, given.device, noising.dtype
        self.seconds: list[tuple[float, float, float]] = []

    def __call__(self, number: int, counted: bool) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        batch = default_collate([self.task.sample(number * self.batch + i) for i in range(self.batch)])
        loading = time.process_time() - cpu
        batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        with torch.autocast(torch.device(self.device).type, self.dtype, enabled=self.dtype != torch.float32):
            loss = self.task.loss(self.task.module, batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss.item()  # waits for the device
        if counted:
            self.seconds.append((time.perf_counter() - wall, time.process_time() - cpu, loading))


if __name__ == "__main__":
    main()
