"""The published schedule, run as published: the baseline of every speed-up.

DGInStyle (arXiv 2312.03048), controlnet/pipeline_refine.py and demo.py: eager fp32, one window at a time with its two
guidance halves as a batch, the label re-encoded for every window, step and half, one solver step per window, and the
text encoder called for each prompt. Windows, levels, masks and noise are those of preset ``official``, so the images
are the same. Two costs are left out in its favour: it moves each window to the GPU twice and empties the allocator's
cache.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgkit.bench.bench_config import BenchTask
from dgkit.bench.image_speed import HALVES, compare, image_row, reference_request, scenes
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


class Published:
    """One image by the published schedule, on an open pipeline of torch in fp32."""

    def __init__(
        self, pipeline: Pipeline, request: SceneRequest, preset: Preset, noise: NoiseSource = seeded_noise
    ) -> None:
        self.pipeline, self.request, self.preset, self.noise = pipeline, request, preset, noise
        self.schedule = pipeline.schedule(preset.steps, preset.solver)
        self.scale = preset.guidance()

    @property
    def evaluations(self) -> int:
        """Number of network evaluations per image: one per window and step, with both guidance halves as a batch."""
        windows = sum(len(self.windows(rescale)) for rescale in (1, self.preset.rescale))
        return windows * len(self.schedule.timesteps)

    def make(self) -> np.ndarray:
        """Return the image, uint8 [H, W, 3]."""
        height, width = self.request.label.shape
        with torch.inference_mode():
            text = self.text()
            low = self.decode(self.loop(1, text, None))
            clean = self.bridge(low)
            return resize(self.decode(self.loop(self.preset.rescale, text, clean)), height, width)

    def text(self) -> dict[str, Tensor]:
        """Return embeddings of the empty text and of the prompt by name; ``text`` is float32 [2, L, D]."""
        prompt, _ = self.pipeline.fit_prompt(self.request.prompt)
        parts = [self.pipeline.encode_text([text]) for text in ("", prompt)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def evaluate(self, latents: Tensor, timestep: int, text: Mapping[str, Tensor], label: Tensor) -> Tensor:
        """Return the guided prediction float32 [1, c, h, w] of a window; ``label`` is its one-hot [1, 20, f*h, f*w]."""
        both = torch.cat([latents] * HALVES)
        times = torch.full((HALVES,), timestep, dtype=torch.int64, device=latents.device)
        condition = self.pipeline.condition(torch.cat([label] * HALVES))
        added = self.pipeline.added(text, label.shape[2], label.shape[3])
        plain, steered = self.pipeline.denoise(both, times, text["text"], condition, **added).chunk(2)
        return plain + self.scale * (steered - plain)

    def loop(self, rescale: int, text: Mapping[str, Tensor], clean: Tensor | None) -> Tensor:
        """Return the latents after a pass; the second pass keeps ``clean`` where the label has large components."""
        windows, label = self.windows(rescale), self.label(rescale)
        latents = self.draw("pass1" if clean is None else "pass2", rescale)
        counts = windows.counts().to(latents.device)
        keep = None if clean is None else self.keep(clean)
        for index, timestep in enumerate(self.schedule.timesteps):
            total = torch.zeros_like(latents)
            for y, x in windows.corners:
                place = (..., slice(y, y + windows.tile_height), slice(x, x + windows.tile_width))
                prediction = self.evaluate(latents[place], timestep, text, self.crop(label, windows, y, x))
                total[place] += self.schedule.step(index, latents[place], prediction)[0]
            latents = total / counts
            if clean is not None and keep is not None:
                fresh = self.draw(f"fuse/{index}", rescale)
                fused = self.schedule.fused(index, self.preset.fuse_level, clean, fresh)
                latents = torch.where(keep, fused, latents)
        return latents

    def bridge(self, low: np.ndarray) -> Tensor:
        """Return the latents float32 that the second pass starts from; ``low`` is the first image, uint8 [H, W, 3]."""
        rescale = self.preset.rescale
        image = to_float(resize(low, low.shape[0] * rescale, low.shape[1] * rescale))[None]
        return self.pipeline.encode_image(image.to(self.pipeline.device), self.draw("bridge", rescale))

    def decode(self, latents: Tensor) -> np.ndarray:
        """Return the image of latents, uint8 [H, W, 3]. Raises EngineError if a value is not finite."""
        image = self.pipeline.decode(latents)[0]
        if not bool(torch.isfinite(image).all()):
            raise EngineError("the published schedule produced values that are not finite")
        return to_uint8(image)

    def keep(self, clean: Tensor) -> Tensor:
        """Return the mask of the large components, bool [1, 1, h, w]."""
        mask = downscale(large_components(self.request.label, self.preset.large_area), *clean.shape[2:])
        return torch.from_numpy(mask)[None, None].to(clean.device)

    def windows(self, rescale: int) -> Windows:
        """Return the windows of a pass, in latent pixels."""
        tile, factor = self.pipeline.tile, self.pipeline.vae_factor
        height, width = (size * rescale // factor for size in self.request.label.shape)
        return make_windows(height, width, tile, max(1, round(tile * self.preset.stride)))

    def label(self, rescale: int) -> Tensor:
        """Return the one-hot label, float32 [1, 20, r*H, r*W], on the device."""
        label = torch.from_numpy(np.array(self.request.label)).to(self.pipeline.device)
        return one_hot(label.repeat_interleave(rescale, 0).repeat_interleave(rescale, 1)[None])

    def crop(self, label: Tensor, windows: Windows, y: int, x: int) -> Tensor:
        """Return the part of a one-hot label under the window at latent pixel (y, x)."""
        factor = self.pipeline.vae_factor
        height, width = windows.tile_height * factor, windows.tile_width * factor
        return label[..., y * factor : y * factor + height, x * factor : x * factor + width]

    def draw(self, purpose: str, rescale: int) -> Tensor:
        """Return noise for ``purpose``, float32 [1, c, h, w], on the device."""
        height, width = (size * rescale // self.pipeline.vae_factor for size in self.request.label.shape)
        shape = (1, self.pipeline.latent_channels, height, width)
        return self.noise(self.request.seed, purpose, shape).to(self.pipeline.device)


def measure_evaluation(task: BenchTask) -> Iterator[dict[str, Any]]:
    """Yield the cells of one evaluation: a window in both guidance halves, with its label encoded for each."""
    yield _open(task, lambda published: _time_evaluation(published, task).row(HALVES))


def measure_images(task: BenchTask) -> Iterator[dict[str, Any]]:
    """Yield the cells of whole images: measured if one takes at most ``official_seconds``, else extrapolated."""
    yield _open(task, lambda published: _measure_images(published, task))


def _open(task: BenchTask, measure: Callable[[Published], dict[str, Any]]) -> dict[str, Any]:
    device = find_device(task.device)
    eager = EngineRecipe(engine="torch", device=task.device, options=BuildOptions(cuda_graph=False))
    pipeline = load_pipeline(task.model, loras=task.lora, recipe=eager)
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
    """Return the request of the reference image if there is one; only its size affects the time."""
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
    """Return the milliseconds of what an image needs once: texts, the bridge, and both decodings."""
    device = published.pipeline.device
    synchronize(device)
    started = time.perf_counter()
    with torch.inference_mode():
        published.text()
        clean = published.bridge(published.decode(published.draw("pass1", 1)))
        published.decode(clean)
    synchronize(device)
    return 1e3 * (time.perf_counter() - started)
