"""The model and preset of a run, applied to blocks of jobs: what each process that generates images does."""

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dgkit.errors import OutOfMemory
from dgkit.generation.blocks import Block
from dgkit.generation.encoding import GeneratedImage
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.guards import memory_errors
from dgkit.generation.jobs import Job
from dgkit.generation.settings import chosen_engines, chosen_preset
from dgkit.progress import Notify

if TYPE_CHECKING:
    from dgkit.diffusion.pipeline import Pipeline
    from dgkit.diffusion.presets import Preset
    from dgkit.diffusion.sampler import SceneRequest, SceneResult
    from dgkit.generation.agreement import AgreementCheck


class SceneGenerator:
    """Generates the images of blocks with one loaded model; use inside ``with``, which loads the weights."""

    def __init__(
        self, config: GenerateConfig, pipeline: "Pipeline | None" = None, notify: Notify | None = None
    ) -> None:
        """Open the model of ``config``, or use ``pipeline`` if the process has opened it already.

        Raises InputError, ModelError, UsageError or EngineError for a model, preset or judge that cannot be used.
        """
        from dgkit.diffusion.loading import load_pipeline

        self.config = config
        self.samples = config.samples  # per call of the denoiser; fewer after the device ran out of memory
        self._notify = notify
        self.preset: Preset = chosen_preset(config)
        self.pipeline: Pipeline = pipeline or load_pipeline(
            config.model,
            config.controlnet,
            loras=config.lora,
            recipe=chosen_engines(config),
            rebuild=config.rebuild,
            notify=notify,
        )
        self._stack = contextlib.ExitStack()
        self._check = _open_judge(config)

    def __enter__(self) -> "SceneGenerator":
        with memory_errors(self.config.samples):
            self._stack.enter_context(self.pipeline)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def generate(self, block: Block, advance: Callable[[float], None]) -> list[GeneratedImage]:
        """Return the wanted images of a block; ``advance(share)`` reports the finished share of the block, 0 to 1."""
        from dgkit.diffusion.sampler import sample

        def progress(step: float, steps: float) -> None:
            advance(step / max(steps, 1))

        def sample_jobs(jobs: Sequence[Job]) -> "list[SceneResult]":
            requests = [scene_request(job) for job in jobs]
            while True:
                try:
                    with memory_errors(self.samples):
                        return sample(self.pipeline, requests, self.preset, batch=self.samples, progress=progress)
                except OutOfMemory as error:
                    self._halve(error)

        if self._check is None:
            images = [GeneratedImage(*pair) for pair in zip(block.jobs, sample_jobs(block.jobs), strict=True)]
        else:
            with memory_errors(self.samples):
                images = self._check.generate(block.jobs, sample_jobs)
        return [image for image in images if image.job.index in block.wanted]

    def _halve(self, error: OutOfMemory) -> None:
        """Halve the samples per call from now on and report it; raise ``error`` if a call has one sample already.

        The jobs of a block stay the same, and so do their noise and their files.
        """
        if self.samples == 1:
            raise error
        self.samples //= 2
        self.pipeline.free_buffers()
        if self._notify is not None:
            what = f"{error.message.partition(':')[0]} on {self.pipeline.device}"
            self._notify(f"{what}; continuing with {self.samples} (--batch {self.samples} starts with it)")


def scene_request(job: Job) -> "SceneRequest":
    """Return the request of a job for the sampler."""
    from dgkit.diffusion.sampler import SceneRequest

    return SceneRequest(
        job.label,
        job.prompt,
        job.seed,
        names=job.names,
        negative_prompt=job.negative_prompt,
        guidance_scale=job.guidance_scale,
    )


def _open_judge(config: GenerateConfig) -> "AgreementCheck | None":
    if config.judge is None:
        return None
    from dgkit.generation.agreement import AgreementCheck

    return AgreementCheck(config)
