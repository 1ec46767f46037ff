"""Multi-Resolution Latent Fusion: from a label and a prompt to an image, in two passes.

Pass 1 samples at the label's size. The bridge decodes the image, doubles its size (Lanczos) and encodes it again. Pass
2 samples at twice the size in overlapping windows. After each step it replaces the latents of large label components by
the noised first-pass latents, so that only small objects are generated again. Source: DGInStyle (arXiv 2312.03048),
controlnet/pipeline_refine.py, demo.py, gen_datasets.py. Presets other than ``official`` and ``exact`` deviate from it
to save evaluations, see :class:`~dgkit.diffusion.presets.Preset`.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dgkit.diffusion.noise import NoiseSource, seeded_noise
from dgkit.diffusion.passes import Run, SceneRequest, SceneState
from dgkit.diffusion.pipeline import Pipeline
from dgkit.diffusion.pixels import resize
from dgkit.diffusion.presets import Preset, find_preset
from dgkit.errors import EngineError, LabelError, UsageError
from dgkit.labels import IGNORE
from dgkit.progress import Advance

__all__ = ["SceneRequest", "SceneResult", "sample"]


@dataclass(frozen=True)
class SceneResult:
    """``image`` uint8 [H, W, 3] RGB; ``high_res`` the image of the second pass before downscaling, or None.

    ``prompt`` is the text that was encoded; ``prompt_shortened``: class names were dropped from it. ``retried``: the
    image was not finite in the network's precision and was generated again in fp32.
    """

    image: np.ndarray
    high_res: np.ndarray | None
    prompt: str
    prompt_shortened: bool = False
    retried: bool = False


@dataclass
class _SampleCount:
    """Denoiser samples done and in total, reported to ``progress`` after every network call."""

    progress: Advance | None
    total: int = 0
    done: int = 0

    def add(self, samples: int) -> None:
        self.done += samples
        if self.progress:
            self.progress(self.done, self.total)


def sample(
    pipeline: Pipeline,
    requests: Sequence[SceneRequest],
    preset: Preset | str,
    *,
    batch: int = 8,
    progress: Advance | None = None,
    noise: NoiseSource = seeded_noise,
) -> list[SceneResult]:
    """Generate an image per request with an open ``pipeline``; return the results in order.

    ``preset``: a preset, or its name as in :func:`~dgkit.diffusion.presets.find_preset`.
    ``batch``: denoiser samples per call (a window in one guidance half is one sample). It does not change the noise;
    pixels change only by the rounding of the backend. Images with different guidance scales share no call.
    ``progress(done, total)`` counts denoiser samples. An image with values that are not finite is generated again alone
    in fp32.

    Raises EngineError if an image is not finite in fp32 either, or the model does not support its size; UsageError for
    an unknown preset, a batch below 1 or a label of another type; LabelError for a label with unknown ids.
    """
    if batch < 1:
        raise UsageError(f"batch {batch}; allowed: 1 or more", "use for example batch=8")
    for request in requests:
        _check(pipeline, request)
    samples = _SampleCount(progress)
    chosen = find_preset(preset) if isinstance(preset, str) else preset
    results: dict[int, SceneResult] = {}
    with torch.inference_mode():
        runs = []
        for scale, numbers in _by_guidance(requests, chosen.guidance(pipeline.defaults.guidance_scale)).items():
            run = Run(pipeline, dataclasses.replace(chosen, guidance_scale=scale), batch, noise, samples.add)
            runs.append((run, dict(zip(numbers, run.scenes([requests[i] for i in numbers]), strict=True))))
            samples.total += run.cost(list(runs[-1][1].values()))
        for run, scenes in runs:
            for group in _groups(requests, scenes, run.images_per_batch()):
                part = [scenes[i] for i in group]
                run.generate(part)
                for index, scene, result in zip(group, part, run.map(_result, part), strict=True):
                    results[index] = result if scene.finite else _retry(run, scene, samples)
    return [results[index] for index in range(len(requests))]


def _by_guidance(requests: Sequence[SceneRequest], usual: float) -> dict[float, list[int]]:
    """Return the indices of the requests by guidance scale; ``usual`` is that of requests without their own.

    A step evaluates one half or both for a whole batch, so that images of two scales share none.
    """
    found: dict[float, list[int]] = {}
    for index, request in enumerate(requests):
        found.setdefault(usual if request.guidance_scale is None else request.guidance_scale, []).append(index)
    return found


def _check(pipeline: Pipeline, request: SceneRequest) -> None:
    label = request.label
    if label.ndim != 2 or label.dtype != np.uint8:
        raise UsageError(f"label is {label.dtype} {list(label.shape)}; expected uint8 [height, width]")
    taxonomy = pipeline.info.taxonomy
    unknown = np.setdiff1d(label, np.append(np.arange(taxonomy.channels), IGNORE))
    if unknown.size:
        raise LabelError(
            f"label has ids {unknown[:5].tolist()}; allowed: train ids 0 to {taxonomy.size - 1}, and 255 for ignore"
        )
    pipeline.check_size(*label.shape)


def _groups(requests: Sequence[SceneRequest], numbers: Iterable[int], most: int) -> Iterator[list[int]]:
    """Yield the ``numbers`` of up to ``most`` requests of one size."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for index in numbers:
        by_size.setdefault(requests[index].label.shape, []).append(index)
    for indices in by_size.values():
        for start in range(0, len(indices), most):
            yield indices[start : start + most]


def _result(scene: SceneState, retried: bool = False) -> SceneResult:
    height, width = scene.request.label.shape
    image = scene.low if scene.high is None else resize(scene.high, height, width)
    return SceneResult(image, scene.high, scene.prompt, scene.shortened, retried)


def _retry(run: Run, scene: SceneState, samples: _SampleCount) -> SceneResult:
    pipeline = run.pipeline.full_precision()
    if pipeline is None:
        raise EngineError(
            f"the image is not finite in fp32 (prompt {scene.prompt!r}, seed {scene.request.seed})",
            "check the model folder, or try another seed",
        )
    precise = Run(pipeline, run.preset, run.batch, run.noise, samples.add)
    (again,) = precise.scenes([scene.request])
    samples.total += precise.cost([again])
    precise.generate([again])
    return _result(again, retried=True) if again.finite else _retry(precise, again, samples)
