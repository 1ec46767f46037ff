"""The passes of the sampler for images of one size, which progress in lockstep.

A batch of the denoiser is filled with windows, guidance halves and images. The canvas, the averages and the steps are
float32 whatever the networks compute in.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dgkit.diffusion.denoiser import Denoise, guided, in_batches, in_steps, tiled, tiled_each
from dgkit.diffusion.noise import NoiseSource, seeded_noise
from dgkit.diffusion.pipeline import Pipeline, one_hot
from dgkit.diffusion.pixels import resize, to_float, to_uint8
from dgkit.diffusion.presets import Preset
from dgkit.diffusion.sampling_plan import Redraw, SamplingPlan
from dgkit.diffusion.schedule import Schedule
from dgkit.diffusion.tiles import Windows

Done = Callable[[int], None]  # hears the number of denoiser samples after every call
BATCH_SIZES = 4  # of the network on a GPU where the number of windows differs: each size is recorded once
SECOND_PASS_CALLS = 8  # of the denoiser a step, that images are put together for: of the last one a part stays empty
VAE_PIXELS = 1024 * 1024  # in a call on a GPU, which one small image leaves idle
Item = TypeVar("Item")
Result = TypeVar("Result")
Step = Callable[[int, Tensor], Tensor]  # (index of the step, latents) -> prediction, or latents


@dataclass(frozen=True)
class SceneRequest:
    """``label``: uint8 [H, W] of train ids, 255 = ignore; H and W are multiples of the VAE factor."""

    label: np.ndarray
    prompt: str
    seed: int


@dataclass
class SceneState:
    """One request on its way; ``finite`` turns False at the first value that is not."""

    request: SceneRequest
    prompt: str
    shortened: bool
    text: Tensor
    finite: bool = True
    redraw: Redraw | None = None
    low: np.ndarray = field(default_factory=lambda: np.zeros(0))
    upsampled: Tensor = field(default_factory=lambda: torch.zeros(0))
    high: np.ndarray | None = None


class Run:
    """The settings of one call of :func:`dgkit.diffusion.sampler.sample`, and the passes."""

    def __init__(self, pipeline: Pipeline, preset: Preset, batch: int, noise: NoiseSource) -> None:
        self.pipeline, self.preset, self.batch, self.noise = pipeline, preset, batch, noise
        self.plan = SamplingPlan(preset, pipeline.info)
        self.negative = torch.zeros(0)

    @property
    def wide(self) -> bool:
        """A GPU, where a call of a network costs more than what few samples compute, and one core is slow beside it."""
        return self.pipeline.device.type != "cpu"

    def lockstep(self) -> int:
        """Images that fill a batch of the first pass when each is one window."""
        return max(1, self.batch // self.plan.halves)

    def texts(self, requests: Sequence[SceneRequest]) -> dict[str, tuple[str, bool, Tensor]]:
        """Prompt as asked for -> (prompt used, shortened, text [L, D]); each distinct prompt is encoded once."""
        asked_for = dict.fromkeys(request.prompt for request in requests)
        prompts = {prompt: self.pipeline.fit_prompt(prompt) for prompt in asked_for}
        distinct = list(dict.fromkeys(["", *(used for used, _ in prompts.values())]))
        encoded = dict(zip(distinct, self.pipeline.encode_text(distinct), strict=True))
        self.negative = encoded[""][None]
        return {asked: (used, cut, encoded[used]) for asked, (used, cut) in prompts.items()}

    def make(self, scenes: list[SceneState], done: Done) -> None:
        """Both passes for scenes of one size; each scene ends with its images, or not finite."""
        redraws = self.redraws(scenes) if self.preset.two_pass else []
        again = [i for i, redraw in enumerate(redraws) if len(redraw.windows)]
        latents = self.first_pass(scenes, done)
        direct = self.preset.bridge == "latent"
        shown = [i for i in range(len(scenes)) if not (direct and i in again)]
        for i, image in zip(shown, self.decode(latents[shown]), strict=True):
            scenes[i].low = self.finish(scenes[i], image)
        if not again:
            return
        enlarged = self.enlarge(latents[again]) if direct else self.bridge([scenes[i] for i in again])
        for i, upsampled in zip(again, enlarged.split(1), strict=True):
            scenes[i].upsampled = upsampled
        for part in self.packed(again, redraws):
            high = self.second_pass([scenes[i] for i in part], done)
            for i, image in zip(part, self.decode(high), strict=True):
                scenes[i].high = self.finish(scenes[i], image)

    def cost(self, scenes: list[SceneState]) -> int:
        """Denoiser samples of all scenes."""
        redraws = self.redraws(scenes) if self.preset.two_pass else [None] * len(scenes)
        pairs = zip(scenes, redraws, strict=True)
        return sum(self.plan.cost(scene.request.label, redraw).total for scene, redraw in pairs)

    def redraws(self, scenes: list[SceneState]) -> list[Redraw]:
        """What the second pass does with each, found once."""

        def find(scene: SceneState) -> Redraw:
            scene.redraw = scene.redraw or self.plan.redraw(scene.request.label)
            return scene.redraw

        return self.each(find, scenes)

    def each(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """``function`` of every item, on a GPU by several threads: it would wait for one core to do them in turn."""
        if not self.wide or len(items) < 2:
            return [function(item) for item in items]
        with ThreadPoolExecutor(min(len(items), os.cpu_count() or 1)) as threads:
            return list(threads.map(function, items))

    def packed(self, again: list[int], redraws: list[Redraw]) -> Iterator[list[int]]:
        """Neighbours whose windows fit some batches together, where they are guided in both halves; one at least."""
        part: list[int] = []
        filled = 0
        for i in again:
            samples = len(redraws[i].windows) * self.plan.most(self.plan.second)
            if part and filled + samples > SECOND_PASS_CALLS * self.batch:
                yield part
                part, filled = [], 0
            part.append(i)
            filled += samples
        if part:
            yield part

    def first_pass(self, scenes: list[SceneState], done: Done) -> Tensor:
        """Latents float32 [N, c, H/f, W/f]."""
        windows = [self.plan.windows(scene.request.label.shape, 1) for scene in scenes]
        denoise = self.denoiser(self.plan.first, scenes, windows, 1, done)
        return self.loop(self.plan.first, denoise, self.draw(scenes, "pass1", 1), None)

    def bridge(self, scenes: list[SceneState]) -> Tensor:
        """First-pass images -> 8 bit -> Lanczos -> VAE posterior sample, scaled: float32 [N, c, r*H/f, r*W/f]."""
        height, width = (size * self.preset.rescale for size in scenes[0].low.shape[:2])
        together, parts = self.together(height, width), []
        for start in range(0, len(scenes), together):
            part = scenes[start : start + together]
            images = torch.stack(self.each(lambda scene: to_float(resize(scene.low, height, width)), part))
            noise = self.draw(part, "bridge", self.preset.rescale)
            parts.append(self.pipeline.encode_image(images.to(self.pipeline.device), noise))
        return torch.cat(parts)

    def enlarge(self, latents: Tensor) -> Tensor:
        """First-pass latents [N, c, H/f, W/f] -> [N, c, r*H/f, r*W/f], bicubic, without a VAE between."""
        return interpolate(latents, scale_factor=self.preset.rescale, mode="bicubic")

    def second_pass(self, scenes: list[SceneState], done: Done) -> Tensor:
        """Latents float32 [N, c, r*H/f, r*W/f], with what is not drawn again held to ``scene.upsampled``."""
        preset, schedule = self.preset, self.plan.second
        clean = torch.cat([scene.upsampled for scene in scenes])
        redraws = self.redraws(scenes)
        keep = torch.from_numpy(np.stack([redraw.keep for redraw in redraws])[:, None]).to(clean.device)

        fixed = self.draw(scenes, "pass2", preset.rescale)

        def fuse(index: int, latents: Tensor) -> Tensor:
            fresh = preset.fuse_noise == "fresh"
            noise = self.draw(scenes, f"fuse/{index}", preset.rescale) if fresh else fixed
            return torch.where(keep, schedule.fused(index, preset.fuse_level, clean, noise), latents)

        start = fixed
        if preset.second_start < 1.0:
            start = schedule.levels[0].signal * clean + schedule.levels[0].noise * fixed
        windows = [redraw.windows for redraw in redraws]
        return self.loop(schedule, self.denoiser(schedule, scenes, windows, preset.rescale, done), start, fuse)

    def loop(self, schedule: Schedule, denoise: Step, latents: Tensor, fuse: Step | None) -> Tensor:
        """Every step of the schedule; ``fuse`` runs after each."""
        last: Tensor | None = None
        for index in range(len(schedule.timesteps)):
            latents, last = schedule.step(index, latents, denoise(index, latents), last)
            if fuse:
                latents = fuse(index, latents)
        return latents

    def denoiser(
        self, schedule: Schedule, scenes: list[SceneState], windows: list[Windows], rescale: int, done: Done
    ) -> Step:
        """The network behind guidance, batches and windows, with times, text and condition bound."""
        text = torch.stack([scene.text for scene in scenes])
        condition = self.conditions(scenes, windows, rescale)
        alike = len(set(windows)) == 1
        network: Denoise = self.pipeline.denoise
        if self.preset.windows == "cover" and self.wide:
            network = in_steps(network, max(1, self.batch // BATCH_SIZES), self.batch)
        inner = in_batches(network, self.batch, done)
        # Pairs of guidance halves stay together, except that a batch of 1 takes them one after the other.
        pair = in_batches(guided(inner, self.plan.scale, self.negative), max(1, self.batch // self.plan.halves))
        whole = {
            steered: tiled(one, windows[0]) if alike else tiled_each(one, windows)
            for steered, one in ((True, pair), (False, inner))
        }

        def call(index: int, latents: Tensor) -> Tensor:
            time = schedule.timesteps[index]
            timestep = torch.full((len(scenes),), time, dtype=torch.int64, device=latents.device)
            return whole[self.plan.guided(schedule, index)](latents, timestep, text, condition)

        return call

    def conditions(self, scenes: list[SceneState], windows: list[Windows], rescale: int) -> Tensor:
        """Condition embedding of every window, [sum of len(windows), C, th, tw], each from the window's own crop."""
        crops = [self.crops(scene, layout, rescale) for scene, layout in zip(scenes, windows, strict=True)]
        groups = [torch.cat(crops)] if self.wide else crops
        parts = [part for group in groups for part in group.split(self.batch)]
        return torch.cat([self.pipeline.condition(one_hot(part)) for part in parts])

    def crops(self, scene: SceneState, windows: Windows, rescale: int) -> Tensor:
        """Labels uint8 [len(windows), f*th, f*tw] of the windows."""
        factor = self.pipeline.vae_factor
        label = torch.from_numpy(np.array(scene.request.label)).to(self.pipeline.device)
        label = label.repeat_interleave(rescale, 0).repeat_interleave(rescale, 1)
        height, width = windows.tile_height * factor, windows.tile_width * factor
        corners = ((y * factor, x * factor) for y, x in windows.corners)
        return torch.stack([label[y : y + height, x : x + width] for y, x in corners])

    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        """Images float32 [3, H, W], one after the other."""
        height, width = (size * self.pipeline.vae_factor for size in latents.shape[2:])
        together = self.together(height, width)
        for start in range(0, len(latents), together):
            yield from self.pipeline.decode(latents[start : start + together])

    def together(self, height: int, width: int) -> int:
        """Images of a size that go through the VAE at once: it needs far more memory a cell than the denoiser."""
        return max(1, VAE_PIXELS // (height * width)) if self.wide else 1

    def finish(self, scene: SceneState, image: Tensor) -> np.ndarray:
        """The 8-bit image; notes on the scene whether all values were finite."""
        scene.finite = scene.finite and bool(torch.isfinite(image).all())
        return to_uint8(torch.nan_to_num(image))

    def draw(self, scenes: list[SceneState], purpose: str, rescale: int) -> Tensor:
        """Noise float32 [N, c, h, w] on the pipeline's device."""
        height, width = (size * rescale // self.pipeline.vae_factor for size in scenes[0].request.label.shape)
        shape = (1, self.pipeline.latent_channels, height, width)
        seeds = [scene.request.seed for scene in scenes]
        if self.noise is seeded_noise:
            rows = self.each(lambda seed: seeded_noise(seed, purpose, shape), seeds)
        else:  # whatever is given need not bear several threads, and may depend on the order
            rows = [self.noise(seed, purpose, shape) for seed in seeds]
        return torch.cat(rows).to(self.pipeline.device)
