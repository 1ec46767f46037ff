"""One pass of the sampler against diffusers' own ControlNet pipelines: same weights, noise, labels and prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dgkit.diffusion.loading import load_pipeline
from dgkit.diffusion.noise import seeded_noise
from dgkit.diffusion.passes import Run, SceneRequest
from dgkit.diffusion.pipeline import one_hot
from dgkit.diffusion.presets import find_preset

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
PROMPTS = ("a road, in snowy weather.", "a car and a building at night")


@pytest.mark.parametrize(("solver", "scheduler"), [("ddim", "DDIM"), ("dpm++2m", "DPMSolverMultistep")])
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_one_pass(family_model: Path, solver: str, scheduler: str, scale: float) -> None:
    preset = find_preset(f"one-pass:steps=5,solver={solver},guidance_scale={scale}")
    ids = np.random.default_rng(0).choice([0, 2, 10, 13, 255], (2, 8, 8)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    requests = [
        SceneRequest(label, prompt, seed) for seed, (label, prompt) in enumerate(zip(ids, PROMPTS, strict=True))
    ]
    with load_pipeline(family_model) as pipeline, torch.inference_mode():
        run = Run(pipeline, preset, 8, seeded_noise)
        found = run.first_pass(run.scenes(requests))
    theirs = diffusers_pipeline(family_model, scheduler)
    noise = torch.cat([seeded_noise(request.seed, "pass1", (1, 4, 8, 8)) for request in requests])
    expected = theirs(
        list(PROMPTS),
        image=one_hot(torch.from_numpy(ids)),
        num_inference_steps=preset.steps,
        guidance_scale=scale,
        latents=noise,
        output_type="latent",
    ).images
    assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max()) and expected.std() > 0.1


def diffusers_pipeline(folder: Path, scheduler: str) -> Any:
    import diffusers

    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    assert "ControlNetPipeline" in type(pipeline).__name__
    pipeline.scheduler = getattr(diffusers, f"{scheduler}Scheduler").from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
