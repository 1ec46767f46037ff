"""What the reward of the city needs: a teacher that knows the source, and images that the model itself draws."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dgkit.diffusion.loading import load_pipeline
from dgkit.diffusion.presets import PRESETS
from dgkit.diffusion.sampler import SceneRequest, sample
from dgkit.files import atomic_path
from dgkit.progress import Progress
from dgkit.prompts import STYLES, caption, compose
from dgkit.segmenters.base import ModuleSource
from dgkit.segmenters.efficientnet_lite import LogitsOnly
from dgkit.training.city.city_recipe import TeacherStage
from dgkit.training.data.rendered_scenes import SceneCache
from dgkit.training.diffusion.reward import Teacher
from dgkit.training.judge.disturbed_crops import CropSampler
from dgkit.training.judge.judge_networks import normalization
from dgkit.training.judge.judge_training import SegmenterTask, train_network
from dgkit.training.loop.integrity import digest_weights

PRESET = PRESETS["one-pass"]  # ten times as fast as two passes, and the reward sees images of this size only


def train_teacher(
    folder: Path, source: Sequence[SceneCache], stage: TeacherStage, seed: int, progress: Progress | None = None
) -> Teacher:
    """Train the teacher in ``folder``, or resume, on labelled scenes of the source. Raises as :func:`train_network`."""
    task = SegmenterTask(CropSampler(source, stage), seed)
    module = train_network(task, stage, folder, progress)
    norm = normalization(module)
    return Teacher(
        ModuleSource(
            path=folder,
            kind="teacher",
            load=lambda: LogitsOnly(module, norm.multiple_of or 1),
            digest=digest_weights(module),
            mean=norm.mean,
            std=norm.std,
        )
    )


def draw_pictures(model: Path, source: SceneCache, count: int, height: int, seed: int, path: Path) -> SceneCache:
    """Return ``count`` images of a model folder in all styles, on label maps of the source, from ``path`` if it exists.

    Images are squares of ``height`` pixels; captions are their prompts.
    """
    if not path.exists():
        labels = [
            _square(source.labels[n % len(source)], height, np.random.default_rng([seed, n])) for n in range(count)
        ]
        prompts = [compose(caption(label), STYLES[n % len(STYLES)]) for n, label in enumerate(labels)]
        requests = [SceneRequest(*one) for one in zip(labels, prompts, range(seed, seed + count), strict=True)]
        with load_pipeline(model, device="auto") as pipeline:
            images = [result.image for result in sample(pipeline, requests, PRESET)]
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, images=np.stack(images), labels=np.stack(labels), prompts=np.array(prompts))
    with np.load(path) as file:
        return SceneCache(file["images"], file["labels"], tuple(map(str, file["prompts"])), name="pictures")


def _square(label: np.ndarray, height: int, rng: np.random.Generator) -> np.ndarray:
    x = int(rng.integers(label.shape[1] - height + 1))
    return np.ascontiguousarray(label[:height, x : x + height])
