"""Multi-Resolution Latent Fusion: from a label and a prompt to an image, in two passes.

Pass 1 samples at the label's size. The bridge decodes, doubles the image by Lanczos and encodes it again. Pass 2
samples at twice the size in overlapping windows, and after each step puts the noised first-pass latents back wherever
the label holds a large component, so that it redraws the small objects only. Source: DGInStyle (arXiv 2312.03048),
controlnet/pipeline_refine.py, demo.py, gen_datasets.py.

Images of one size progress in lockstep; a batch of the denoiser is filled with windows, guidance halves and images. The
canvas, the averages and the steps are float32 whatever the networks compute in.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from dgkit.diffusion.denoiser import Denoise, guided, in_batches, tiled
from dgkit.diffusion.fusion import downscale, large_components
from dgkit.diffusion.images import resize, to_float, to_uint8
from dgkit.diffusion.noise import NoiseSource, seeded_noise
from dgkit.diffusion.pipeline import Pipeline, one_hot
from dgkit.diffusion.presets import GUIDANCE_SCALE, Preset
from dgkit.diffusion.schedule import Schedule
from dgkit.diffusion.tiles import Windows, make_windows
from dgkit.errors import EngineError, LabelError, UsageError
from dgkit.labels import CONDITION_CHANNELS, IGNORE

Fuse = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class SceneRequest:
    """``label``: uint8 [H, W] of train ids, 255 = ignore; H and W are multiples of the VAE factor."""

    label: np.ndarray
    prompt: str
    seed: int


@dataclass(frozen=True)
class SceneResult:
    """``image`` uint8 [H, W, 3] RGB; ``high_res`` the second pass before it is made smaller, or None.

    ``prompt`` is what the text encoder was given and ``prompt_shortened`` whether that lost class names. ``retried``:
    the image was not finite in the network's precision and was made again in fp32.
    """

    image: np.ndarray
    high_res: np.ndarray | None
    prompt: str
    prompt_shortened: bool = False
    retried: bool = False


@dataclass
class _Progress:
    """Denoiser samples done and to do, told to ``report`` after every network call."""

    total: int
    report: Callable[[int, int], None] | None
    done: int = 0

    def add(self, samples: int) -> None:
        self.done += samples
        if self.report:
            self.report(self.done, self.total)


@dataclass
class _Scene:
    """One request on its way; ``finite`` turns False at the first value that is not."""

    request: SceneRequest
    prompt: str
    shortened: bool
    text: Tensor
    finite: bool = True
    low: np.ndarray = field(default_factory=lambda: np.zeros(0))
    upsampled: Tensor = field(default_factory=lambda: torch.zeros(0))
    high: np.ndarray | None = None


def sample(
    pipeline: Pipeline,
    requests: Sequence[SceneRequest],
    preset: Preset,
    *,
    batch: int = 8,
    progress: Callable[[int, int], None] | None = None,
    noise: NoiseSource = seeded_noise,
) -> list[SceneResult]:
    """One result per request, in order. ``pipeline`` is open.

    ``batch``: denoiser samples a call (a window in one guidance half is one sample). It changes no noise, and pixels
    only by the rounding of the backend. ``progress(done, total)`` counts denoiser samples. An image that is not finite
    is made again alone in fp32; EngineError if it still is not, or for a size that the model cannot make. UsageError
    for a batch below 1 or a label of another type, LabelError for one with unknown ids.
    """
    if batch < 1:
        raise UsageError(f"batch {batch}; allowed: 1 or more")
    for request in requests:
        _check(pipeline, request)
    run = _Run(pipeline, preset, batch, noise)
    tracker = _Progress(sum(run.cost(request) for request in requests), progress)
    results: list[SceneResult | None] = [None] * len(requests)
    with torch.inference_mode():
        texts = run.texts(requests)
        for group in _groups(requests, run.lockstep()):
            scenes = [_Scene(requests[i], *texts[requests[i].prompt]) for i in group]
            run.make(scenes, tracker.add)
            for index, scene in zip(group, scenes, strict=True):
                results[index] = _result(scene) if scene.finite else _retry(run, scene, tracker)
    return [result for result in results if result is not None]


def _check(pipeline: Pipeline, request: SceneRequest) -> None:
    label = request.label
    if label.ndim != 2 or label.dtype != np.uint8:
        raise UsageError(f"label is {label.dtype} {list(label.shape)}; expected uint8 [height, width]")
    unknown = np.setdiff1d(label, np.append(np.arange(CONDITION_CHANNELS), IGNORE))
    if unknown.size:
        raise LabelError(f"label holds ids {unknown[:5].tolist()}; allowed: train ids 0 to 18, and 255 for ignore")
    pipeline.check_size(*label.shape)


def _groups(requests: Sequence[SceneRequest], most: int) -> Iterator[list[int]]:
    """Indices of requests of one size, at most ``most`` together."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for index, request in enumerate(requests):
        by_size.setdefault(request.label.shape, []).append(index)
    for indices in by_size.values():
        for start in range(0, len(indices), most):
            yield indices[start : start + most]


def _result(scene: _Scene, retried: bool = False) -> SceneResult:
    height, width = scene.request.label.shape
    image = scene.low if scene.high is None else resize(scene.high, height, width)
    return SceneResult(image, scene.high, scene.prompt, scene.shortened, retried)


def _retry(run: "_Run", scene: _Scene, tracker: _Progress) -> SceneResult:
    pipeline = run.pipeline.full_precision()
    if pipeline is None:
        raise EngineError(
            f"the model made values that are not finite in fp32 (prompt {scene.prompt!r}, seed {scene.request.seed})",
            "check the model folder; other seeds may work",
        )
    precise = _Run(pipeline, run.preset, run.batch, run.noise)
    text, shortened, embedding = precise.texts([scene.request])[scene.request.prompt]
    again = _Scene(scene.request, text, shortened, embedding)
    tracker.total += precise.cost(scene.request)
    precise.make([again], tracker.add)
    return _result(again, retried=True) if again.finite else _retry(precise, again, tracker)


class _Run:
    """The settings of one call of :func:`sample`, and the passes."""

    def __init__(self, pipeline: Pipeline, preset: Preset, batch: int, noise: NoiseSource) -> None:
        self.pipeline, self.preset, self.batch, self.noise = pipeline, preset, batch, noise
        self.schedule: Schedule = pipeline.schedule(preset.steps, preset.solver)
        scale = preset.guidance_scale
        if scale is None:
            scale = pipeline.defaults.guidance_scale
        self.scale = GUIDANCE_SCALE if scale is None else scale
        self.halves = 1 if self.scale == 1.0 else 2
        self.negative = torch.zeros(0)

    def lockstep(self) -> int:
        """Images that fill a batch of the first pass when each is one window."""
        return max(1, self.batch // self.halves)

    def cost(self, request: SceneRequest) -> int:
        """Denoiser samples of one image."""
        windows = len(self.windows(request.label.shape, 1))
        if self.preset.two_pass:
            windows += len(self.windows(request.label.shape, self.preset.rescale))
        return windows * self.halves * len(self.schedule.timesteps)

    def windows(self, shape: tuple[int, ...], rescale: int) -> Windows:
        factor, tile = self.pipeline.vae_factor, self.pipeline.tile
        stride = max(1, round(tile * self.preset.stride))
        return make_windows(shape[0] * rescale // factor, shape[1] * rescale // factor, tile, stride)

    def texts(self, requests: Sequence[SceneRequest]) -> dict[str, tuple[str, bool, Tensor]]:
        """Prompt as asked for -> (prompt used, shortened, text [L, D]); each distinct prompt is encoded once."""
        asked_for = dict.fromkeys(request.prompt for request in requests)
        prompts = {prompt: self.pipeline.fit_prompt(prompt) for prompt in asked_for}
        distinct = list(dict.fromkeys(["", *(used for used, _ in prompts.values())]))
        encoded = dict(zip(distinct, self.pipeline.encode_text(distinct), strict=True))
        self.negative = encoded[""][None]
        return {asked: (used, cut, encoded[used]) for asked, (used, cut) in prompts.items()}

    def make(self, scenes: list[_Scene], done: Callable[[int], None]) -> None:
        """Both passes for scenes of one size; each scene ends with its images, or not finite."""
        latents = self.first_pass(scenes, done)
        for scene, image in zip(scenes, self.decode(latents), strict=True):
            scene.low = self.finish(scene, image)
        if not self.preset.two_pass:
            return
        for scene in scenes:
            scene.upsampled = self.bridge(scene)
        windows = len(self.windows(scenes[0].request.label.shape, self.preset.rescale))
        together = max(1, self.batch // (windows * self.halves))
        for start in range(0, len(scenes), together):
            part = scenes[start : start + together]
            for scene, image in zip(part, self.decode(self.second_pass(part, done)), strict=True):
                scene.high = self.finish(scene, image)

    def first_pass(self, scenes: list[_Scene], done: Callable[[int], None]) -> Tensor:
        """Latents float32 [N, c, H/f, W/f]."""
        return self.loop(self.denoiser(scenes, 1, done), scenes, self.draw(scenes, "pass1", 1), None)

    def bridge(self, scene: _Scene) -> Tensor:
        """First-pass image -> 8 bit -> Lanczos -> VAE posterior sample, scaled: float32 [1, c, r*H/f, r*W/f]."""
        rescale = self.preset.rescale
        height, width = scene.low.shape[0] * rescale, scene.low.shape[1] * rescale
        image = to_float(resize(scene.low, height, width))[None].to(self.pipeline.device)
        return self.pipeline.encode_image(image, self.draw([scene], "bridge", rescale))

    def second_pass(self, scenes: list[_Scene], done: Callable[[int], None]) -> Tensor:
        """Latents float32 [N, c, r*H/f, r*W/f], with large components held to ``scene.upsampled``."""
        preset = self.preset
        clean = torch.cat([scene.upsampled for scene in scenes])
        masks = [large_components(scene.request.label, preset.large_area) for scene in scenes]
        cells = np.stack([downscale(mask, *clean.shape[2:]) for mask in masks])[:, None]
        keep = torch.from_numpy(cells).to(clean.device)

        def fuse(index: int, latents: Tensor) -> Tensor:
            fresh = self.draw(scenes, f"fuse/{index}", preset.rescale)
            return torch.where(keep, self.schedule.fused(index, preset.fuse_level, clean, fresh), latents)

        start = self.draw(scenes, "pass2", preset.rescale)
        return self.loop(self.denoiser(scenes, preset.rescale, done), scenes, start, fuse)

    def loop(
        self, denoise: Callable[[Tensor, Tensor], Tensor], scenes: list[_Scene], latents: Tensor, fuse: Fuse | None
    ) -> Tensor:
        """Every step of the schedule, from pure noise; ``fuse(index, latents)`` runs after each."""
        last: Tensor | None = None
        for index, time in enumerate(self.schedule.timesteps):
            timestep = torch.full((len(scenes),), time, dtype=torch.int64, device=latents.device)
            latents, last = self.schedule.step(index, latents, denoise(latents, timestep), last)
            if fuse:
                latents = fuse(index, latents)
        return latents

    def denoiser(
        self, scenes: list[_Scene], rescale: int, done: Callable[[int], None]
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The network behind guidance, batches and windows, with text and condition bound."""
        windows = self.windows(scenes[0].request.label.shape, rescale)
        text = torch.stack([scene.text for scene in scenes])
        condition = torch.cat([self.conditions(scene, windows, rescale) for scene in scenes])
        # Pairs of guidance halves stay together, except that a batch of 1 takes them one after the other.
        inner: Denoise = in_batches(self.pipeline.denoise, self.batch, done)
        outer = in_batches(guided(inner, self.scale, self.negative), max(1, self.batch // self.halves))
        whole = tiled(outer, windows)
        return lambda latents, timestep: whole(latents, timestep, text, condition)

    def conditions(self, scene: _Scene, windows: Windows, rescale: int) -> Tensor:
        """Condition embedding of every window, [len(windows), C, th, tw], each computed from the window's own crop."""
        factor = self.pipeline.vae_factor
        label = torch.from_numpy(np.array(scene.request.label)).to(self.pipeline.device)
        label = label.repeat_interleave(rescale, 0).repeat_interleave(rescale, 1)
        height, width = windows.tile_height * factor, windows.tile_width * factor
        crops = [label[y * factor : y * factor + height, x * factor : x * factor + width] for y, x in windows.corners]
        parts = []
        for start in range(0, len(crops), self.batch):
            parts.append(self.pipeline.condition(one_hot(torch.stack(crops[start : start + self.batch]))))
        return torch.cat(parts)

    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        """Images float32 [3, H, W], one at a time: a VAE needs far more memory a cell than the denoiser."""
        for latent in latents:
            yield self.pipeline.decode(latent[None])[0]

    def finish(self, scene: _Scene, image: Tensor) -> np.ndarray:
        """The 8-bit image; notes on the scene whether all values were finite."""
        scene.finite = scene.finite and bool(torch.isfinite(image).all())
        return to_uint8(torch.nan_to_num(image))

    def draw(self, scenes: list[_Scene], purpose: str, rescale: int) -> Tensor:
        """Noise float32 [N, c, h, w] on the pipeline's device."""
        height, width = (size * rescale // self.pipeline.vae_factor for size in scenes[0].request.label.shape)
        shape = (1, self.pipeline.latent_channels, height, width)
        rows = [self.noise(scene.request.seed, purpose, shape) for scene in scenes]
        return torch.cat(rows).to(self.pipeline.device)
