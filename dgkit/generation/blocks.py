"""Blocks of jobs, and the images that come out of them: what every process that makes images does."""

import contextlib
import hashlib
import io
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dgkit.data.labelmap import colorize
from dgkit.data.records import Attempt, Record, file_names
from dgkit.errors import UsageError
from dgkit.generation.agreement import Drawn, Referee
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.guards import memory_errors
from dgkit.generation.jobs import Job, JobPlan, make_job
from dgkit.generation.settings import chosen_engines, chosen_preset

if TYPE_CHECKING:
    from dgkit.diffusion.pipeline import Pipeline
    from dgkit.diffusion.presets import Preset
    from dgkit.diffusion.sampler import SceneResult

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """The numbers of one block of jobs; ``wanted`` are those whose images are missing."""

    numbers: range
    wanted: tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """Jobs that are computed together, those of ``wanted`` to be kept."""

    jobs: tuple[Job, ...]
    wanted: tuple[int, ...]

    @property
    def start(self) -> int:
        """Number of the first job, by which a block is known."""
        return self.jobs[0].index


@dataclass(frozen=True)
class Scene:
    """A finished image: its record, and the PNG files ``label``, ``image`` and ``vis`` as bytes."""

    record: Record
    contents: dict[str, bytes]


def tasks(config: GenerateConfig, there: Collection[int]) -> Iterator[Task]:
    """Blocks of which an image is not ``there``, in order; of a shard its own ones.

    Blocks are fixed by the job numbers, and one is computed whole even where some of its images are there: the last bit
    of a pixel may depend on what shares a batch, and must not depend on where a run was cut off or who computes it.
    """
    for numbers in blocks(config):
        wanted = tuple(number for number in numbers if number not in there)
        if wanted:
            yield Task(numbers, wanted)


def blocks(config: GenerateConfig) -> Iterator[range]:
    """The job numbers of each block of a run, of a shard every N-th block."""
    size = max(1, config.batch // 2)  # two denoiser samples an image: with and without the text
    own, of = config.shard or (1, 1)
    for start in range((own - 1) * size, config.count, of * size):
        yield range(start, min(start + size, config.count))


def total(config: GenerateConfig) -> int:
    """Images that the folder of a run, or of its shard, holds in the end."""
    return sum(len(numbers) for numbers in blocks(config)) if config.shard else config.count


def refuse_empty_shard(config: GenerateConfig) -> None:
    """Raise UsageError for a shard that has no image."""
    if total(config) == 0 and config.shard is not None:
        whole = config.model_copy(update={"shard": None})
        most = sum(1 for _ in blocks(whole))
        own, of = config.shard
        raise UsageError(
            f"shard {own}/{of} has no image: --count {config.count} with --batch {config.batch} makes {most} blocks",
            f"use at most {most} shards, or a smaller --batch",
        )


def belongs(config: GenerateConfig, number: int) -> bool:
    """Whether a job is one of the run, or of its shard."""
    own, of = config.shard or (1, 1)
    return 0 <= number < config.count and number // max(1, config.batch // 2) % of == own - 1


def make_block(plan: JobPlan, task: Task) -> Block:
    """The jobs of a block. Raises as :func:`~dgkit.generation.jobs.make_job`."""
    return Block(tuple(make_job(plan, number) for number in task.numbers), task.wanted)


class Maker:
    """The model and the preset of a run; used by the one process that draws with it, inside ``with``.

    ``pipeline`` spares loading it again where the process has it already.
    """

    def __init__(
        self, config: GenerateConfig, pipeline: "Pipeline | None" = None, notify: Notify | None = None
    ) -> None:
        from dgkit.diffusion.loading import load_pipeline

        self.config = config
        self.preset: Preset = chosen_preset(config)
        self.pipeline: Pipeline = pipeline or load_pipeline(
            config.model, config.controlnet, recipe=chosen_engines(config), rebuild=config.rebuild, notify=notify
        )
        self._stack = contextlib.ExitStack()
        self._referee = Referee(config) if config.judge is not None else None

    def __enter__(self) -> "Maker":
        with memory_errors(self.config.batch):
            self._stack.enter_context(self.pipeline)  # loads the weights
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def draw(self, block: Block, progress: Callable[[float], None]) -> list[Drawn]:
        """The wanted images of a block; ``progress`` is told the share of it that is done, 0 to 1."""
        from dgkit.diffusion.sampler import SceneRequest, sample

        def advance(step: int, steps: int) -> None:
            progress(step / max(steps, 1))

        def draw(jobs: Sequence[Job]) -> "list[SceneResult]":
            requests = [SceneRequest(job.label, job.prompt, job.seed) for job in jobs]
            return sample(self.pipeline, requests, self.preset, batch=self.config.batch, progress=advance)

        with memory_errors(self.config.batch):
            if self._referee is None:
                drawn = [Drawn(*pair) for pair in zip(block.jobs, draw(block.jobs), strict=True)]
            else:
                drawn = self._referee.draw(block.jobs, draw)
        return [one for one in drawn if one.job.index in block.wanted]


def encode_all(drawn: list[Drawn]) -> list[Scene]:
    """The files of drawn images."""
    return [
        encode(one.job, one.result.image, one.result.prompt, one.result.retried, one.attempts, one.accepted)
        for one in drawn
    ]


def encode(
    job: Job,
    image: np.ndarray,
    prompt_used: str,
    retried: bool,
    attempts: tuple[Attempt, ...] = (),
    accepted: bool = True,
) -> Scene:
    """The files of one image, uint8 [H,W,3] RGB; ``prompt_used`` is what the text encoder was given."""
    contents = {"label": png(job.label), "image": png(image), "vis": png(picture(image, job.label))}
    names = file_names(job.id)
    record = Record(
        index=job.index,
        id=job.id,
        image=names["image"],
        label=names["label"],
        vis=names["vis"],
        source=job.source,
        class_name=job.class_name,
        crop=(job.box.x, job.box.y, job.box.width, job.box.height),
        label_scale=job.label_scale,
        rule_met=job.rule_met,
        prompt=job.prompt,
        prompt_used=prompt_used,
        style=job.style,
        seed=job.seed,
        retried=retried,
        image_sha256=hashlib.sha256(contents["image"]).hexdigest(),
        label_sha256=hashlib.sha256(contents["label"]).hexdigest(),
        attempts=attempts,
        accepted=accepted,
    )
    return Scene(record, contents)


def picture(image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Image | label colours | half of each, side by side: uint8 [H,3W,3] RGB."""
    colours = colorize(label)
    blend = ((image.astype(np.uint16) + colours) // 2).astype(np.uint8)
    return np.concatenate([image, colours, blend], axis=1)


def png(array: np.ndarray) -> bytes:
    """uint8 [H,W] or [H,W,3] as PNG bytes, the same for the same array."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", compress_level=4)
    return buffer.getvalue()
