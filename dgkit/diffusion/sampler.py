"""Multi-Resolution Latent Fusion: from a label and a prompt to an image, in two passes.

Pass 1 samples at the label's size. The bridge decodes, doubles the image by Lanczos and encodes it again. Pass 2
samples at twice the size in overlapping windows, and after each step puts the noised first-pass latents back wherever
the label holds a large component, so that it redraws the small objects only. Source: DGInStyle (arXiv 2312.03048),
controlnet/pipeline_refine.py, demo.py, gen_datasets.py. Presets other than ``official`` and ``exact`` depart from it to
spare evaluations, see :class:`~dgkit.diffusion.presets.Preset`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dgkit.diffusion.noise import NoiseSource, seeded_noise
from dgkit.diffusion.passes import Run, SceneRequest, SceneState
from dgkit.diffusion.pipeline import Pipeline
from dgkit.diffusion.pixels import resize
from dgkit.diffusion.presets import Preset
from dgkit.errors import EngineError, LabelError, UsageError
from dgkit.labels import CONDITION_CHANNELS, IGNORE

__all__ = ["SceneRequest", "SceneResult", "sample"]


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
    run = Run(pipeline, preset, batch, noise)
    results: list[SceneResult | None] = [None] * len(requests)
    with torch.inference_mode():
        texts = run.texts(requests)
        scenes = [SceneState(request, *texts[request.prompt]) for request in requests]
        tracker = _Progress(run.cost(scenes), progress)
        for group in _groups(requests, run.lockstep()):
            part = [scenes[i] for i in group]
            run.make(part, tracker.add)
            for index, scene, result in zip(group, part, run.each(_result, part), strict=True):
                results[index] = result if scene.finite else _retry(run, scene, tracker)
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


def _result(scene: SceneState, retried: bool = False) -> SceneResult:
    height, width = scene.request.label.shape
    image = scene.low if scene.high is None else resize(scene.high, height, width)
    return SceneResult(image, scene.high, scene.prompt, scene.shortened, retried)


def _retry(run: Run, scene: SceneState, tracker: _Progress) -> SceneResult:
    pipeline = run.pipeline.full_precision()
    if pipeline is None:
        raise EngineError(
            f"the model made values that are not finite in fp32 (prompt {scene.prompt!r}, seed {scene.request.seed})",
            "check the model folder; other seeds may work",
        )
    precise = Run(pipeline, run.preset, run.batch, run.noise)
    text, shortened, embedding = precise.texts([scene.request])[scene.request.prompt]
    again = SceneState(scene.request, text, shortened, embedding)
    tracker.total += precise.cost([again])
    precise.make([again], tracker.add)
    return _result(again, retried=True) if again.finite else _retry(precise, again, tracker)
