"""Blocks: the groups of jobs whose images are sampled together.

Blocks are fixed by the job numbers. A block is computed as a whole even if some of its images exist: the last bits of a
pixel may depend on the images in the same batch, and must not depend on where a run was interrupted or which process
computes the block.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from dgkit.errors import UsageError
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.jobs import Job, JobPlan, make_job


@dataclass(frozen=True)
class Block:
    """Jobs that are computed together; only the images with the numbers ``wanted`` are kept."""

    jobs: tuple[Job, ...]
    wanted: tuple[int, ...]

    @property
    def start(self) -> int:
        """Number of the first job, which identifies the block."""
        return self.jobs[0].index


def make_block(plan: JobPlan, numbers: range, wanted: tuple[int, ...]) -> Block:
    """Return the block of the job ``numbers``. Raises as :func:`~dgkit.generation.jobs.make_job`."""
    return Block(tuple(make_job(plan, number) for number in numbers), wanted)


def missing_blocks(config: GenerateConfig, existing: Collection[int]) -> Iterator[tuple[range, tuple[int, ...]]]:
    """Yield (job numbers, missing numbers) of each block that lacks an image, in order."""
    for numbers in block_numbers(config):
        missing = tuple(number for number in numbers if number not in existing)
        if missing:
            yield numbers, missing


def block_numbers(config: GenerateConfig) -> Iterator[range]:
    """Yield the job numbers of each block of the run; of a shard, of every N-th block."""
    size = _block_size(config)
    own, shards = config.shard or (1, 1)
    for start in range((own - 1) * size, config.count, shards * size):
        yield range(start, min(start + size, config.count))


def total_images(config: GenerateConfig) -> int:
    """Return the number of images in the finished folder of a run or shard."""
    return sum(len(numbers) for numbers in block_numbers(config)) if config.shard else config.count


def belongs(config: GenerateConfig, number: int) -> bool:
    """Return whether a job number is part of the run or shard."""
    own, shards = config.shard or (1, 1)
    return 0 <= number < config.count and number // _block_size(config) % shards == own - 1


def refuse_empty_shard(config: GenerateConfig) -> None:
    """Raise UsageError for a shard without an image."""
    if config.shard is not None and total_images(config) == 0:
        blocks = sum(1 for _ in block_numbers(config.model_copy(update={"shard": None})))
        own, shards = config.shard
        raise UsageError(
            f"shard {own}/{shards} has no image: --count {config.count} with --batch {config.samples} "
            f"makes {blocks} blocks",
            f"use at most {blocks} shards, or a smaller --batch",
        )


def _block_size(config: GenerateConfig) -> int:
    return max(1, config.samples // 2)  # an image takes two denoiser samples: with and without the text
