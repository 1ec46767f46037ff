"""The published schedule as published: the baseline that every gain is measured against.

DGInStyle (arXiv 2312.03048), controlnet/pipeline_refine.py and demo.py: eager fp32, one window at a time with its two
guidance halves as a batch, the label encoded anew for every window, step and half, one solver step a window, and the
text encoder called for each prompt. Windows, levels, masks and noise are those of preset ``official``, so the images
are the same. Left out in its favour: that it moves each window to the GPU twice and empties the allocator's cache.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgkit.bench.bench_config import BenchTask
from dgkit.bench.image_speed import compare, image_row, reference_request, scenes
from dgkit.bench.memory import DeviceMemory, peak_rss
from dgkit.bench.network_speed import reference_path
from dgkit.bench.timing import LEAST, Times, clock_calls, synchronize, time_calls
from dgkit.diffusion.fusion import downscale, large_components
from dgkit.diffusion.loading import load_pipeline
from dgkit.diffusion.noise import NoiseSource, seeded_noise
from dgkit.diffusion.pipeline import Pipeline, one_hot
from dgkit.diffusion.pixels import resize, to_float, to_uint8
from dgkit.diffusion.presets import PRESETS, Preset
from dgkit.diffusion.sampler import SceneRequest
from dgkit.diffusion.tiles import Windows, make_windows
from dgkit.engines.engine_recipe import EngineRecipe
from dgkit.engines.runner import BuildOptions, find_device
from dgkit.errors import EngineError

HALVES = 2


class Published:
    """One image on an open pipeline of torch in fp32."""

    def __init__(
        self, pipeline: Pipeline, request: SceneRequest, preset: Preset, noise: NoiseSource = seeded_noise
    ) -> None:
        self.pipeline, self.request, self.preset, self.noise = pipeline, request, preset, noise
        self.schedule = pipeline.schedule(preset.steps, preset.solver)
        self.scale = preset.guidance()

    @property
    def evaluations(self) -> int:
        """Evaluations of the network for an image: one a window and step, both guidance halves together."""
        windows = sum(len(self.windows(rescale)) for rescale in (1, self.preset.rescale))
        return windows * len(self.schedule.timesteps)

    def make(self) -> np.ndarray:
        """The image, uint8 [H, W, 3]."""
        height, width = self.request.label.shape
        with torch.inference_mode():
            text = self.text()
            low = self.decode(self.loop(1, text, None))
            clean = self.bridge(low)
            return resize(self.decode(self.loop(self.preset.rescale, text, clean)), height, width)

    def text(self) -> Tensor:
        """float32 [2, L, D]: no text, and the prompt."""
        prompt, _ = self.pipeline.fit_prompt(self.request.prompt)
        return torch.cat([self.pipeline.encode_text([""]), self.pipeline.encode_text([prompt])])

    def evaluate(self, latents: Tensor, timestep: int, text: Tensor, label: Tensor) -> Tensor:
        """Guided prediction float32 [1, c, h, w] for one window; ``label`` one-hot [1, 20, f*h, f*w] of that window."""
        both = torch.cat([latents] * HALVES)
        times = torch.full((HALVES,), timestep, dtype=torch.int64, device=latents.device)
        condition = self.pipeline.condition(torch.cat([label] * HALVES))
        plain, steered = self.pipeline.denoise(both, times, text, condition).chunk(2)
        return plain + self.scale * (steered - plain)

    def loop(self, rescale: int, text: Tensor, clean: Tensor | None) -> Tensor:
        """Latents after all steps of a pass; the second one keeps ``clean`` where the label has large components."""
        windows, label = self.windows(rescale), self.label(rescale)
        latents = self.draw("pass1" if clean is None else "pass2", rescale)
        counts = windows.counts().to(latents.device)
        keep = None if clean is None else self.keep(clean)
        for index, timestep in enumerate(self.schedule.timesteps):
            total = torch.zeros_like(latents)
            for y, x in windows.corners:
                place = (..., slice(y, y + windows.tile_height), slice(x, x + windows.tile_width))
                prediction = self.evaluate(latents[place], timestep, text, self.crop(label, windows, y, x))
                total[place] += self.schedule.step(index, latents[place], prediction, None)[0]
            latents = total / counts
            if clean is not None and keep is not None:
                fresh = self.draw(f"fuse/{index}", rescale)
                fused = self.schedule.fused(index, self.preset.fuse_level, clean, fresh)
                latents = torch.where(keep, fused, latents)
        return latents

    def bridge(self, low: np.ndarray) -> Tensor:
        """First-pass image uint8 [H, W, 3] -> scaled latents float32 of the second pass."""
        rescale = self.preset.rescale
        image = to_float(resize(low, low.shape[0] * rescale, low.shape[1] * rescale))[None]
        return self.pipeline.encode_image(image.to(self.pipeline.device), self.draw("bridge", rescale))

    def decode(self, latents: Tensor) -> np.ndarray:
        """uint8 image of latents. EngineError where a value is not finite."""
        image = self.pipeline.decode(latents)[0]
        if not bool(torch.isfinite(image).all()):
            raise EngineError("the published schedule made values that are not finite")
        return to_uint8(image)

    def keep(self, clean: Tensor) -> Tensor:
        """Bool [1, 1, h, w] of the large components."""
        mask = downscale(large_components(self.request.label, self.preset.large_area), *clean.shape[2:])
        return torch.from_numpy(mask)[None, None].to(clean.device)

    def windows(self, rescale: int) -> Windows:
        tile, factor = self.pipeline.tile, self.pipeline.vae_factor
        height, width = (size * rescale // factor for size in self.request.label.shape)
        return make_windows(height, width, tile, max(1, round(tile * self.preset.stride)))

    def label(self, rescale: int) -> Tensor:
        """One-hot label float32 [1, 20, r*H, r*W] on the device."""
        label = torch.from_numpy(np.array(self.request.label)).to(self.pipeline.device)
        return one_hot(label.repeat_interleave(rescale, 0).repeat_interleave(rescale, 1)[None])

    def crop(self, label: Tensor, windows: Windows, y: int, x: int) -> Tensor:
        factor = self.pipeline.vae_factor
        height, width = windows.tile_height * factor, windows.tile_width * factor
        return label[..., y * factor : y * factor + height, x * factor : x * factor + width]

    def draw(self, purpose: str, rescale: int) -> Tensor:
        height, width = (size * rescale // self.pipeline.vae_factor for size in self.request.label.shape)
        shape = (1, self.pipeline.latent_channels, height, width)
        return self.noise(self.request.seed, purpose, shape).to(self.pipeline.device)


def measure_evaluation(task: BenchTask) -> Iterator[dict[str, Any]]:
    """Cells of one evaluation of the denoiser: a window in both guidance halves, its label encoded for each."""
    yield _open(task, lambda published: _time_evaluation(published, task).row(HALVES))


def measure_images(task: BenchTask) -> Iterator[dict[str, Any]]:
    """Cells of whole images, measured where one takes at most ``official_seconds``, else extrapolated and so marked."""
    yield _open(task, lambda published: _measure_images(published, task))


def _open(task: BenchTask, measure: Callable[[Published], dict[str, Any]]) -> dict[str, Any]:
    device = find_device(task.device)
    eager = EngineRecipe(engine="torch", device=task.device, options=BuildOptions(cuda_graph=False))
    pipeline = load_pipeline(task.model, recipe=eager)
    path = reference_path(task, pipeline.identity()["digest"])
    preset = PRESETS["official"] if task.steps is None else dataclasses.replace(PRESETS["official"], steps=task.steps)
    memory, started = DeviceMemory(device), time.perf_counter()
    with pipeline:
        published = Published(pipeline, _request(task, pipeline, path), preset)
        loaded = time.perf_counter() - started
        cells = measure(published)
        memory.look()
    image = cells.pop("image", None)
    parity = compare(path, image) if task.preset == "official" and image is not None else {}
    return {**cells, "load_s": loaded, "rss_mib": peak_rss(), **memory.row(), **parity}


def _request(task: BenchTask, pipeline: Pipeline, path: Path | None) -> SceneRequest:
    """The first image of the same subject, where there is one: the time depends on its size alone."""
    if task.subject != "generate" or path is None or not path.is_file():
        return scenes(pipeline, 1)[0]
    return reference_request(path)


def _measure_images(published: Published, task: BenchTask) -> dict[str, Any]:
    once = _time_evaluation(published, task)
    expected = published.evaluations * once.median / 1e3
    if expected <= task.official_seconds:
        images: list[np.ndarray] = []
        repeats = max(1, min(LEAST, int(task.official_seconds / max(expected, 1e-9))))
        times = clock_calls(lambda: images.append(published.make()), repeats, task.seconds)
        return {**image_row(times, 1), "image": images[0]}
    rest = _time_rest(published)
    whole = Times((published.evaluations * once.median + rest,))
    how = f"extrapolated: {published.evaluations} evaluations x {once.median:.4g} ms + {rest:.4g} ms"
    return {**image_row(whole, 1), "calls": len(once.milliseconds), "ms_p95": None, "method": how}


def _time_evaluation(published: Published, task: BenchTask) -> Times:
    windows = published.windows(1)
    label = published.crop(published.label(1), windows, 0, 0)
    latents = published.draw("pass1", 1)[..., : windows.tile_height, : windows.tile_width]
    with torch.inference_mode():
        text = published.text()
        timestep = published.schedule.timesteps[0]
        call = lambda: published.evaluate(latents, timestep, text, label)  # noqa: E731
        return time_calls(call, latents.device, task.repeats, task.seconds)


def _time_rest(published: Published) -> float:
    """Milliseconds of all that an image needs once: texts, the bridge, and both decodings."""
    device = published.pipeline.device
    synchronize(device)
    started = time.perf_counter()
    with torch.inference_mode():
        published.text()
        clean = published.bridge(published.decode(published.draw("pass1", 1)))
        published.decode(clean)
    synchronize(device)
    return 1e3 * (time.perf_counter() - started)
