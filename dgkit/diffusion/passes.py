"""The two passes of the sampler, for images of one size in lockstep.

A batch of the denoiser contains windows, guidance halves and images. The canvas, the averages and the steps are float32
regardless of the precision of the networks.
"""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import InitVar, dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dgkit.diffusion.denoiser import Denoise, guided, in_batches, in_padded_batches, tiled, tiled_each
from dgkit.diffusion.noise import NoiseSource, seeded_noise
from dgkit.diffusion.pipeline import Pipeline, one_hot
from dgkit.diffusion.pixels import resize, to_float, to_uint8
from dgkit.diffusion.presets import Preset
from dgkit.diffusion.sampling_plan import Redraw, SamplingPlan
from dgkit.diffusion.schedule import Schedule, State
from dgkit.diffusion.tiles import Windows
from dgkit.errors import UsageError
from dgkit.prompts import Wording
from dgkit.styles import Style, check_guidance, find_style
from dgkit.taxonomies import CITYSCAPES19, Taxonomy

BATCH_SIZES = 4  # distinct batch sizes on a GPU, each captured once, when images have different numbers of windows
SECOND_PASS_CALLS = 8  # denoiser calls per step that images are grouped for; only the last one may be partly empty
VAE_PIXELS = 1024 * 1024  # pixels per VAE call on a GPU, which a single small image would not use fully
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Step = Callable[[int, Tensor], Tensor]  # (index of the step, latents) -> prediction, or latents


@dataclass(frozen=True)
class SceneRequest:
    """An image to generate; ``label`` uint8 [H, W] of train ids, 255 = ignore, H and W multiples of the VAE factor.

    ``style`` instead of ``prompt`` composes the prompt from the classes of the label, those of ``taxonomy``, and a
    style, or the name of a known one such as "snowy"; its negative prompt and guidance scale apply unless they are
    stated here. ``names`` are the names of classes in the prompt, joined by blanks, which may be shortened.
    ``guidance_scale`` None: that of preset or model. Raises UsageError for prompt and style, an unknown style, or a
    scale that is not from 0 to 100.
    """

    label: np.ndarray
    prompt: str = ""
    seed: int = 0
    style: InitVar[str | Style | None] = None
    taxonomy: InitVar[Taxonomy] = CITYSCAPES19
    names: tuple[str, ...] = field(default=(), compare=False)
    negative_prompt: str = ""
    guidance_scale: float | None = None

    def __post_init__(self, style: str | Style | None, taxonomy: Taxonomy) -> None:
        check_guidance(self.guidance_scale, "SceneRequest")
        if style is None:
            return
        if self.prompt:
            raise UsageError("prompt and style cannot be combined in a SceneRequest", "drop one of the two")
        style = find_style(style) if isinstance(style, str) else style
        worded = Wording(taxonomy=taxonomy).prompt(self.label, style)
        scale = style.guidance_scale if self.guidance_scale is None else self.guidance_scale
        values = {"prompt": worded.text, "names": worded.names, "guidance_scale": scale,
                  "negative_prompt": self.negative_prompt or style.negative_prompt or ""}  # fmt: skip
        for name, value in values.items():
            object.__setattr__(self, name, value)


@dataclass
class SceneState:
    """The state of one request; ``finite`` becomes False at the first image with a value that is not finite.

    ``encoded`` holds what :meth:`Pipeline.encode_text` returns for negative prompt and prompt, [2, ...]. ``low`` and
    ``high`` are the 8-bit images of the passes, ``upsampled`` the latents that the second pass starts from.
    """

    request: SceneRequest
    prompt: str
    shortened: bool
    encoded: dict[str, Tensor]
    finite: bool = True
    redraw: Redraw | None = None
    low: np.ndarray = field(default_factory=lambda: np.zeros(0))
    upsampled: Tensor = field(default_factory=lambda: torch.zeros(0))
    high: np.ndarray | None = None


class Run:
    """The passes, with the settings of one call of :func:`dgkit.diffusion.sampler.sample`.

    ``count`` is called with the number of denoiser samples after every call of the denoiser.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        preset: Preset,
        batch: int,
        noise: NoiseSource,
        count: Callable[[int], None] | None = None,
    ) -> None:
        self.pipeline, self.preset, self.batch, self.noise, self.count = pipeline, preset, batch, noise, count
        self.plan = SamplingPlan(preset, pipeline.info)

    @property
    def on_gpu(self) -> bool:
        """Whether the denoiser runs on a GPU: there small calls waste time, and so does work on a single CPU core."""
        return self.pipeline.device.type != "cpu"

    def images_per_batch(self) -> int:
        """Return the number of images that fill a batch of the first pass if each is one window."""
        return max(1, self.batch // self.plan.halves)

    def scenes(self, requests: Sequence[SceneRequest]) -> list[SceneState]:
        """Return the initial state of each request; each distinct prompt is fitted and encoded once."""
        fit = functools.cache(self.pipeline.fit_prompt)
        negatives = [fit(request.negative_prompt)[0] for request in requests]
        prompts = [fit(request.prompt, request.names) for request in requests]
        distinct = list(dict.fromkeys([*negatives, *(fitted for fitted, _ in prompts)]))
        encoded, row = self.pipeline.encode_text(distinct), {prompt: i for i, prompt in enumerate(distinct)}

        def both(negative: str, prompt: str) -> dict[str, Tensor]:
            return {name: value[[row[negative], row[prompt]]] for name, value in encoded.items()}

        return [
            SceneState(request, fitted, shortened, both(negative, fitted))
            for request, negative, (fitted, shortened) in zip(requests, negatives, prompts, strict=True)
        ]

    def generate(self, scenes: list[SceneState]) -> None:
        """Run both passes for scenes of one size; afterwards each scene has its images, or is not finite."""
        redraws = self.redraws(scenes) if self.preset.two_pass else []
        again = [i for i, redraw in enumerate(redraws) if len(redraw.windows)]
        latents = self.first_pass(scenes)
        direct = self.preset.bridge == "latent"
        shown = [i for i in range(len(scenes)) if not (direct and i in again)]
        for i, image in zip(shown, self.decode(latents[shown]), strict=True):
            scenes[i].low = self.finish(scenes[i], image)
        if not again:
            return
        enlarged = self.enlarge(latents[again]) if direct else self.bridge([scenes[i] for i in again])
        for i, upsampled in zip(again, enlarged.split(1), strict=True):
            scenes[i].upsampled = upsampled
        for part in self.second_pass_groups(again, redraws):
            high = self.second_pass([scenes[i] for i in part])
            for i, image in zip(part, self.decode(high), strict=True):
                scenes[i].high = self.finish(scenes[i], image)

    def cost(self, scenes: list[SceneState]) -> int:
        """Return the number of denoiser samples of all scenes."""
        redraws = self.redraws(scenes) if self.preset.two_pass else [None] * len(scenes)
        pairs = zip(scenes, redraws, strict=True)
        return sum(self.plan.cost(scene.request.label, redraw).total for scene, redraw in pairs)

    def redraws(self, scenes: list[SceneState]) -> list[Redraw]:
        """Return the second-pass plan of each scene, computed once per scene."""

        def find(scene: SceneState) -> Redraw:
            scene.redraw = scene.redraw or self.plan.redraw(scene.request.label)
            return scene.redraw

        return self.map(find, scenes)

    def map(self, function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
        """Return ``function`` of every item; with a GPU in several threads, so that it does not wait for one core."""
        if not self.on_gpu or len(items) < 2:
            return [function(item) for item in items]
        with ThreadPoolExecutor(min(len(items), os.cpu_count() or 1)) as threads:
            return list(threads.map(function, items))

    def second_pass_groups(self, again: list[int], redraws: list[Redraw]) -> Iterator[list[int]]:
        """Yield groups of consecutive images whose samples fill up to :data:`SECOND_PASS_CALLS` denoiser batches.

        Samples are counted for the steps with both guidance halves. A group has at least one image.
        """
        part: list[int] = []
        filled = 0
        for i in again:
            samples = len(redraws[i].windows) * self.plan.max_samples(self.plan.second)
            if part and filled + samples > SECOND_PASS_CALLS * self.batch:
                yield part
                part, filled = [], 0
            part.append(i)
            filled += samples
        if part:
            yield part

    def first_pass(self, scenes: list[SceneState]) -> Tensor:
        """Return latents float32 [N, c, H/f, W/f]."""
        windows = [self.plan.windows(scene.request.label.shape, 1) for scene in scenes]
        denoise = self.denoiser(self.plan.first, scenes, windows, 1)
        start = self.plan.first.start * self.noise_of(scenes, "pass1", 1)
        return self.loop(self.plan.first, denoise, start, lambda index: self.noise_of(scenes, f"pass1/{index}", 1))

    def bridge(self, scenes: list[SceneState]) -> Tensor:
        """Enlarge the 8-bit images of the first pass (Lanczos) and encode them.

        Returns scaled samples of the VAE posterior, float32 [N, c, r*H/f, r*W/f].
        """
        height, width = (size * self.preset.rescale for size in scenes[0].low.shape[:2])
        batch, parts = self.vae_batch(height, width), []
        for start in range(0, len(scenes), batch):
            part = scenes[start : start + batch]
            images = torch.stack(self.map(lambda scene: to_float(resize(scene.low, height, width)), part))
            noise = self.noise_of(part, "bridge", self.preset.rescale)
            parts.append(self.pipeline.encode_image(images.to(self.pipeline.device), noise))
        return torch.cat(parts)

    def enlarge(self, latents: Tensor) -> Tensor:
        """Enlarge first-pass latents [N, c, H/f, W/f] to [N, c, r*H/f, r*W/f], bicubic, without the VAE."""
        return interpolate(latents, scale_factor=self.preset.rescale, mode="bicubic")

    def second_pass(self, scenes: list[SceneState]) -> Tensor:
        """Return latents float32 [N, c, r*H/f, r*W/f]; cells that are kept follow ``scene.upsampled``."""
        preset, schedule = self.preset, self.plan.second
        clean = torch.cat([scene.upsampled for scene in scenes])
        redraws = self.redraws(scenes)
        keep = torch.from_numpy(np.stack([redraw.keep for redraw in redraws])[:, None]).to(clean.device)
        fixed = self.noise_of(scenes, "pass2", preset.rescale)

        def fuse(index: int, latents: Tensor) -> Tensor:
            fresh = preset.fuse_noise == "fresh"
            noise = self.noise_of(scenes, f"fuse/{index}", preset.rescale) if fresh else fixed
            return torch.where(keep, schedule.fused(index, preset.fuse_level, clean, noise), latents)

        def fresh_noise(index: int) -> Tensor:
            return self.noise_of(scenes, f"pass2/{index}", preset.rescale)

        start = schedule.start * fixed
        if preset.second_start < 1.0:
            start = schedule.levels[0].signal * clean + schedule.levels[0].noise * fixed
        windows = [redraw.windows for redraw in redraws]
        return self.loop(schedule, self.denoiser(schedule, scenes, windows, preset.rescale), start, fresh_noise, fuse)

    def loop(
        self,
        schedule: Schedule,
        denoise: _Step,
        latents: Tensor,
        fresh_noise: Callable[[int], Tensor],
        fuse: _Step | None = None,
    ) -> Tensor:
        """Run every step of the schedule, with ``fuse`` after each, and return the latents.

        ``fresh_noise(index)`` is the noise of the canvas that a step adds, drawn only if the solver needs it.
        """
        state: State = ()
        for index in range(len(schedule.timesteps)):
            noise = fresh_noise(index) if schedule.needs_noise(index) else None
            latents, state = schedule.step(index, latents, denoise(index, latents), state, noise)
            if fuse:
                latents = fuse(index, latents)
        return latents

    def denoiser(self, schedule: Schedule, scenes: list[SceneState], windows: list[Windows], rescale: int) -> _Step:
        """Return the network wrapped in guidance, batches and windows, with timesteps, text and condition bound."""
        both = {name: torch.stack([scene.encoded[name] for scene in scenes]) for name in scenes[0].encoded}
        prompts = {name: value[:, 1] for name, value in both.items()}
        height, width = (cells * self.pipeline.vae_factor for cells in (windows[0].tile_height, windows[0].tile_width))
        condition = self.conditions(scenes, windows, rescale)
        same_windows = len(set(windows)) == 1
        network: Denoise = self.pipeline.denoise
        if self.preset.windows == "cover" and self.on_gpu:
            network = in_padded_batches(network, max(1, self.batch // BATCH_SIZES), self.batch)
        inner = in_batches(network, self.batch, self.count)
        # Both guidance halves of a sample are in one call, unless the batch is 1.
        pair = in_batches(guided(inner, self.plan.scale), max(1, self.batch // self.plan.halves))
        whole = {
            with_guidance: (
                tiled(one, windows[0]) if same_windows else tiled_each(one, windows),
                encoded["text"],
                self.pipeline.added(encoded, height, width),
            )
            for with_guidance, one, encoded in ((True, pair, both), (False, inner, prompts))
        }

        def call(index: int, latents: Tensor) -> Tensor:
            time = schedule.timesteps[index]
            timestep = torch.full((len(scenes),), time, dtype=torch.int64, device=latents.device)
            wrapped, text, added = whole[self.plan.guided(schedule, index)]
            return wrapped(latents, timestep, text, condition, **added)

        return call

    def conditions(self, scenes: list[SceneState], windows: list[Windows], rescale: int) -> Tensor:
        """Return the condition embedding of every window, [sum of len(windows), C, th, tw], each from its own crop."""
        crops = [self.crops(scene, layout, rescale) for scene, layout in zip(scenes, windows, strict=True)]
        groups = [torch.cat(crops)] if self.on_gpu else crops
        parts = [part for group in groups for part in group.split(self.batch)]
        channels = self.pipeline.info.taxonomy.channels
        return torch.cat([self.pipeline.condition(one_hot(part, channels)) for part in parts])

    def crops(self, scene: SceneState, windows: Windows, rescale: int) -> Tensor:
        """Return the labels of the windows, uint8 [len(windows), f*th, f*tw]."""
        factor = self.pipeline.vae_factor
        label = torch.from_numpy(np.array(scene.request.label)).to(self.pipeline.device)
        label = label.repeat_interleave(rescale, 0).repeat_interleave(rescale, 1)
        height, width = windows.tile_height * factor, windows.tile_width * factor
        corners = ((y * factor, x * factor) for y, x in windows.corners)
        return torch.stack([label[y : y + height, x : x + width] for y, x in corners])

    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        """Yield the images of ``latents``, float32 [3, H, W]."""
        height, width = (size * self.pipeline.vae_factor for size in latents.shape[2:])
        batch = self.vae_batch(height, width)
        for start in range(0, len(latents), batch):
            yield from self.pipeline.decode(latents[start : start + batch])

    def vae_batch(self, height: int, width: int) -> int:
        """Return the number of images per VAE call; the VAE needs far more memory per cell than the denoiser."""
        return max(1, VAE_PIXELS // (height * width)) if self.on_gpu else 1

    def finish(self, scene: SceneState, image: Tensor) -> np.ndarray:
        """Return the 8-bit image; set ``scene.finite`` to False if a value is not finite."""
        scene.finite = scene.finite and bool(torch.isfinite(image).all())
        return to_uint8(torch.nan_to_num(image))

    def noise_of(self, scenes: list[SceneState], purpose: str, rescale: int) -> Tensor:
        """Return noise float32 [N, c, h, w] on the pipeline's device."""
        height, width = (size * rescale // self.pipeline.vae_factor for size in scenes[0].request.label.shape)
        shape = (1, self.pipeline.latent_channels, height, width)
        seeds = [scene.request.seed for scene in scenes]
        if self.noise is seeded_noise:
            rows = self.map(lambda seed: seeded_noise(seed, purpose, shape), seeds)
        else:  # another source may not be thread-safe, and may depend on the order of calls
            rows = [self.noise(seed, purpose, shape) for seed in seeds]
        return torch.cat(rows).to(self.pipeline.device)
