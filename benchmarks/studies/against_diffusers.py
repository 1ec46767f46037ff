"""One pass of the sampler against diffusers' own ControlNet pipeline: same weights, labels, prompts, noise and steps.

    python benchmarks/studies/against_diffusers.py WORK                        the embedded model, 8 images, 20 steps
    python benchmarks/studies/against_diffusers.py WORK --subjects diffusers:bf16,dgkit:torch:bf16 --rounds 1

Subjects are `diffusers:DTYPE[:compile]` (channels-last; with `compile` UNet, ControlNet and VAE decoder are compiled)
and `dgkit:ENGINE:DTYPE`. All are opened and warmed up first, then timed in turns, so that a busy machine affects them
alike. Both draw the images of all labels in one call with guidance. WORK keeps an image of each subject. Appends to
against_diffusers.csv: `x_diffusers` is the speed-up over the fastest setting of diffusers in this run, `psnr` [dB]
compares the images with those of diffusers in fp32.
"""

import argparse
import contextlib
import datetime
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from records import RESULTS, Row, read_rows, study_parser, write_rows

from dgkit.diffusion.loading import embedded_model, load_pipeline
from dgkit.diffusion.noise import seeded_noise
from dgkit.diffusion.pipeline import Pipeline, one_hot
from dgkit.diffusion.presets import Preset, find_preset
from dgkit.diffusion.sampler import SceneRequest, sample
from dgkit.provenance import cpu_name, git_commit, versions
from dgkit.world import render

SUBJECTS = (
    "diffusers:fp32,diffusers:bf16,diffusers:bf16:compile,"
    "dgkit:torch:fp32,dgkit:torch:bf16,dgkit:compile:bf16,dgkit:openvino:bf16"
)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Draw = Callable[[], list[np.ndarray]]


def main() -> None:
    parser = study_parser(__doc__, "folder for the images", RESULTS / "against_diffusers.csv")
    parser.add_argument("--model", type=Path, help="model folder; default: the embedded model")
    parser.add_argument("--subjects", default=SUBJECTS)
    parser.add_argument("--count", type=int, default=8, help="images of a call")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    folder = given.model or embedded_model()
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(load_pipeline(folder))
        requests = scenes(plain, given.count)
        preset = find_preset(f"one-pass:steps={given.steps}")
        draws = {name: opened(name, folder, plain, requests, preset, stack) for name in given.subjects.split(",")}
        images = {name: draw() for name, draw in draws.items()}
        times: dict[str, list[float]] = {name: [] for name in draws}
        for _ in range(given.rounds):
            for name, draw in draws.items():
                started = time.perf_counter()
                draw()
                times[name].append(1e3 * (time.perf_counter() - started) / given.count)
    rows = summary(times, images, given)
    for name, found in images.items():
        Image.fromarray(np.concatenate(found, axis=1)).save(given.work / f"{name.replace(':', '-')}.png")
    for row in rows:
        print({key: row[key] for key in ("subject", "ms_image", "x_diffusers", "psnr")})
    write_rows(given.results, [*read_rows(given.results), *rows])


def scenes(pipeline: Pipeline, count: int) -> list[SceneRequest]:
    """Return requests with labels of the procedural city, of the model's size."""
    size, height = pipeline.size, pipeline.defaults.label_height or pipeline.size

    def request(index: int) -> SceneRequest:
        label = render("source", seed=1, index=index, height=height, width=2 * height).label[:size, :size]
        return SceneRequest(label, pipeline.fit_prompt("road, building, sky, car, in snowy weather")[0], index)

    return [request(index) for index in range(count)]


def opened(
    name: str,
    folder: Path,
    plain: Pipeline,
    requests: Sequence[SceneRequest],
    preset: Preset,
    stack: contextlib.ExitStack,
) -> Draw:
    """Return a function that draws all images with a subject."""
    package, *rest = name.split(":")
    if package == "diffusers":
        return diffusers_draw(folder, plain, requests, preset, *rest)
    engine, dtype = rest
    pipeline = stack.enter_context(load_pipeline(folder, engine=engine, dtype=dtype))
    return lambda: [result.image for result in sample(pipeline, requests, preset, batch=2 * len(requests))]


def diffusers_draw(
    folder: Path, plain: Pipeline, requests: Sequence[SceneRequest], preset: Preset, dtype: str, compiled: str = ""
) -> Draw:
    """Return a function that draws with diffusers; guidance, noise and one-hot labels are those of dgkit."""
    pipeline = diffusers_pipeline(folder, plain, DTYPES[dtype])
    if compiled:
        for part in ("unet", "controlnet"):
            setattr(pipeline, part, torch.compile(getattr(pipeline, part)))
        pipeline.vae.decode = torch.compile(pipeline.vae.decode)
    labels = one_hot(torch.from_numpy(np.stack([request.label for request in requests])))
    cells = (1, plain.latent_channels, *(size // plain.vae_factor for size in requests[0].label.shape))
    noise = torch.cat([seeded_noise(request.seed, "pass1", cells) for request in requests])

    def draw() -> list[np.ndarray]:
        with torch.inference_mode():
            images = pipeline(
                [request.prompt for request in requests],
                image=labels.to(DTYPES[dtype]),
                num_inference_steps=preset.steps,
                guidance_scale=preset.guidance(plain.defaults.guidance_scale),
                latents=noise.to(DTYPES[dtype]),
                output_type="pil",
            ).images
        return [np.asarray(image) for image in images]

    return draw


def diffusers_pipeline(folder: Path, plain: Pipeline, dtype: torch.dtype) -> Any:
    """Return diffusers' pipeline of a model folder, channels-last, without its progress bar."""
    from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline
    from diffusers import UNet2DConditionModel as UNet
    from transformers import CLIPTextModel

    parts = {
        name: cls.from_pretrained(folder, subfolder=name, torch_dtype=dtype).eval()
        for name, cls in (
            ("unet", UNet), ("controlnet", ControlNetModel), ("vae", AutoencoderKL), ("text_encoder", CLIPTextModel),
        )
    }  # fmt: skip
    for name in ("unet", "controlnet", "vae"):
        parts[name] = parts[name].to(memory_format=torch.channels_last)
    pipeline = StableDiffusionControlNetPipeline(
        **parts,
        tokenizer=plain.tokenizer,
        scheduler=DDIMScheduler.from_pretrained(folder, subfolder="scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def summary(times: dict[str, list[float]], images: dict[str, list[np.ndarray]], given: argparse.Namespace) -> list[Row]:
    """Return a row for each subject."""
    medians = {name: statistics.median(found) for name, found in times.items()}
    fastest = min((value for name, value in medians.items() if name.startswith("diffusers")), default=math.nan)
    facts = {
        "run": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "images": given.count,
        "steps": given.steps, "rounds": given.rounds, "cpu": cpu_name(), "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2), "commit": git_commit(),
        "versions": " ".join(f"{name} {versions().get(name)}" for name in ("torch", "diffusers", "openvino")),
    }  # fmt: skip
    return [
        {
            "subject": name, "ms_image": round(medians[name], 1), "ms_least": round(min(times[name]), 1),
            "x_diffusers": round(fastest / medians[name], 3),
            "psnr": round(psnr(images[name], images["diffusers:fp32"]), 1) if "diffusers:fp32" in images else "",
            **facts,
        }
        for name in times
    ]  # fmt: skip


def psnr(images: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """Return the peak signal-to-noise ratio [dB] of 8-bit images; infinite if they are equal."""
    error = np.mean((np.stack(images).astype(float) - np.stack(expected)) ** 2)
    return 10 * math.log10(255**2 / error) if error else math.inf


if __name__ == "__main__":
    main()
